"""Supervised fine-tuning: cross-entropy on the completions in the data.

The rows of one batch take this path (:class:`NextTokenObjective`)::

    rows                      token ids, and a mark on each token that is trained

      -> micro_batches        packed end to end, or padded; a common prefix is laid out once

      -> hidden_at_targets    decoder without its head, N states that predict a trained token [N, D]

      -> get_lm_head().loss   head and cross-entropy in one function: nats summed over N

The parts are explained where they live: :mod:`tunesmith_torch.data.packing`,
:mod:`tunesmith_torch.prefix.common_prefix`, :mod:`tunesmith_torch.losses.selected_positions` and
:mod:`tunesmith_torch.losses.cross_entropy`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tunesmith.contracts import Job
from tunesmith.errors import DataError
from tunesmith.events import FindingReported
from tunesmith.records import Record
from tunesmith.text import format_count
from tunesmith_torch.data.large_data import is_large, sample_evenly
from tunesmith_torch.data.packing import (
    Example,
    MicroBatch,
    collate,
    pack,
    pad_to_multiple,
    padded_batches,
)
from tunesmith_torch.data.streamed_examples import StreamedExamples, TokenizationSettings
from tunesmith_torch.data.templates import Template
from tunesmith_torch.data.tokenization_cache import tokenize_cached
from tunesmith_torch.data.tokenized_records import TokenizedRecords
from tunesmith_torch.kernels.tree_attention import TreeLayout
from tunesmith_torch.losses.rows_alone import logprobs_of_rows, loss_of_rows
from tunesmith_torch.losses.selected_positions import get_lm_head, hidden_at_targets
from tunesmith_torch.models.adapters import AdaptedModel
from tunesmith_torch.optim.schedule import BatchOrder
from tunesmith_torch.options.training import SupervisedOptions
from tunesmith_torch.prefix.common_prefix import (
    collate_with_prefix,
    limit_prefix,
    shared_prefix_length,
)
from tunesmith_torch.prefix.prefix_check import Report
from tunesmith_torch.training.first_batch import TokenLayout
from tunesmith_torch.training.loop import BatchCounts, RunWithBudget
from tunesmith_torch.training.row_losses import list_row_groups
from tunesmith_torch.training.skipped_rows import (
    StreamAccount,
    check_skipped_share,
    count_affected,
    describe_remedy,
    report_skipped,
)
from tunesmith_torch.training.token_digest import Row
from tunesmith_torch.training.trainer import PreparedTraining, TrainingSession, TrainingTask

__all__ = ["NextTokenObjective", "SupervisedData", "SupervisedTask"]

Layout = tuple[MicroBatch, TreeLayout | None]
"""A micro-batch, and the tree of its rows if they share a prefix, otherwise None."""
SupervisedData: TypeAlias = TokenizedRecords | StreamedExamples
"""All examples; for large data, examples that are tokenized when they are needed."""
_NOT_COUNTED = -1


class NextTokenObjective:
    """The objective: mean negative log-likelihood of the tokens in the loss, over a batch.

    ``Example.trained`` marks the tokens that contribute to the loss, usually the completion and the
    token that ends it. If a sample of rows starts with the same tokens, such as a system prompt,
    each micro-batch computes the part that its rows share once
    (:mod:`tunesmith_torch.prefix.common_prefix`).
    """

    def __init__(
        self,
        adapted: AdaptedModel,
        examples: Sequence[Example],
        *,
        packing: bool,
        rows_alone: bool = False,
        report: Report = lambda text: None,
        load: Callable[[Sequence[int]], None] = lambda rows: None,
    ) -> None:
        """Find the common prefix.

        ``load`` is called with rows before their examples are read. ``report`` receives the reason
        if the common prefix of the rows cannot be shared.
        """
        self._adapted = adapted
        self.model = adapted.model
        self.device = adapted.base.model.device
        self._examples = examples
        self._packing = packing
        self._rows_alone = rows_alone
        self._load = load
        self._lengths = np.full(len(examples), _NOT_COUNTED)
        self._trained = np.zeros(len(examples), np.int64)
        self._loss_weights = np.zeros(len(examples))
        self.row_groups: Sequence[str | None] | None = None
        self.prefix_length = self._find_prefix(report) if packing else 0
        """Number of initial tokens that a sample of rows shares; micro-batches may compute less."""

    def __len__(self) -> int:
        return len(self._examples)

    def _find_prefix(self, report: Report) -> int:
        rows = sample_evenly(range(len(self)))
        self._load(rows)
        sample = [example for row in rows if len(example := self._examples[row])]
        with self._adapted.autocast():
            return shared_prefix_length(sample, self.model, report, _longest_row(self._examples))

    def counts(self, rows: Sequence[int]) -> BatchCounts:
        """Return the token counts of the rows; the divisor is the tokens' total loss weight.

        If the data has no weights, that is the number of tokens in the loss.
        """
        new = [row for row in rows if self._lengths[row] == _NOT_COUNTED]
        if new:
            self._load(rows)
        for row in new:
            example = self._examples[row]
            self._lengths[row] = len(example)
            # Nothing precedes the first token of a row, so nothing predicts it.
            self._trained[row] = np.count_nonzero(np.asarray(example.trained)[1:])
            self._loss_weights[row] = _loss_weight(example, self._trained[row])
        trained = int(self._trained[rows].sum())
        tokens = int(self._lengths[rows].sum())
        divisor = float(self._loss_weights[rows].sum())
        return BatchCounts(tokens=tokens, trained_tokens=trained, loss_divisor=divisor)

    def prepare(self, rows: Sequence[int], run: RunWithBudget) -> Sequence[int]:
        """Return the rows unchanged, as this loss needs no preparation."""
        return rows

    def is_counted(self, rows: Sequence[int]) -> bool:
        """Return True if this process has counted the tokens of all these rows."""
        return bool((self._lengths[rows] != _NOT_COUNTED).all())

    def start_update(self) -> None:
        """Do nothing, because :meth:`loss` records no metrics."""

    def micro_batches(self, prepared: Sequence[int], budget: int) -> list[Layout]:
        """Pack rows end to end, or pad them, into micro-batches of at most ``budget`` tokens."""
        self._load(prepared)
        rows = [row for row in prepared if len(self._examples[row])]
        if not rows:
            return []
        # The prefix was found in a sample: rows outside of it may share fewer tokens.
        prefix = self.prefix_length
        if prefix:
            prefix = limit_prefix([self._examples[row] for row in rows], prefix)
        # Each micro-batch contains the prefix once, so only the rest of a row takes up budget.
        lengths = np.array([len(self._examples[row]) for row in rows]) - prefix
        split = pack if self._packing else padded_batches
        # If a row is longer than the budget, the longest row becomes the budget.
        bins = split(lengths, max(budget - prefix, int(lengths.max())))
        return [self._layout([rows[i] for i in members], prefix) for members in bins]

    def token_layout(self, micro_batch: Layout) -> TokenLayout:
        """Return the tokens of a micro-batch, for reports."""
        return TokenLayout(*micro_batch)

    def loss(self, micro_batch: Layout) -> Tensor:
        """Return the loss in nats, summed over the tokens of the micro-batch."""
        batch, tree_layout = micro_batch[0].to(self.device), micro_batch[1]
        if self._rows_alone:
            return loss_of_rows(self.model, batch)
        hidden_ND = self._hidden_at_targets(batch, tree_layout)
        return get_lm_head(self.model).loss(hidden_ND, batch)

    def row_losses(self, micro_batch: Layout) -> list[tuple[int, float]]:
        """Return the index of each row of the micro-batch, and its loss in nats over all tokens."""
        batch, tree_layout = micro_batch[0].to(self.device), micro_batch[1]
        if self._rows_alone:
            logprobs_N = logprobs_of_rows(self.model, batch)
        else:
            hidden_ND = self._hidden_at_targets(batch, tree_layout)
            logprobs_N = get_lm_head(self.model).logprobs(hidden_ND, batch)
        losses_N = -logprobs_N if batch.weights_N is None else -logprobs_N * batch.weights_N
        # Summed on the CPU: on a GPU, the last bits of such sums differ from call to call.
        row_N = _rows_of_targets(batch, tree_layout)
        losses_R = np.bincount(row_N, losses_N.double().cpu().numpy(), len(batch.rows))
        return list(zip(batch.rows, losses_R.tolist(), strict=True))

    def _hidden_at_targets(self, batch: MicroBatch, tree_layout: TreeLayout | None) -> Tensor:
        attention_kwargs = {} if tree_layout is None else {"tree_layout": tree_layout}
        return hidden_at_targets(self.model, batch, attention_kwargs=attention_kwargs)

    def _layout(self, rows: Sequence[int], prefix: int) -> Layout:
        if prefix:
            return collate_with_prefix(self._examples, rows, prefix)
        return pad_to_multiple(collate(self._examples, rows, packed=self._packing)), None

    def metrics(self) -> dict[str, float]:
        """Return no metrics, because the loss is the only one."""
        return {}


def _rows_of_targets(batch: MicroBatch, tree_layout: TreeLayout | None) -> NDArray[np.int64]:
    """Return the index of each loss position's row in the micro-batch."""
    if tree_layout is not None:
        starts = [branch.start for branch in tree_layout.branches]
    elif batch.boundaries is not None:
        starts = batch.boundaries[: len(batch.rows)].tolist()
    else:
        B, T = batch.ids_BT.shape
        starts = list(range(0, B * T, T))
    return np.searchsorted(starts, batch.trained_N.cpu().numpy(), side="right") - 1


def _longest_row(examples: Sequence[Example]) -> int:
    """Return the number of tokens in the longest row, or an upper bound."""
    if isinstance(examples, StreamedExamples):
        return examples.longest
    return max(map(len, examples), default=0)


def _loss_weight(example: Example, trained: float) -> float:
    """Return the total loss weight of an example's tokens, except its first token."""
    if example.weights is None:
        return trained
    return float(np.asarray(example.weights)[1:][np.asarray(example.trained)[1:]].sum())


class SupervisedTask(TrainingTask[SupervisedData]):
    """The training task of supervised fine-tuning, on conversations, completions and texts."""

    can_compute_rows_alone = True
    has_row_losses = True
    objective_class: ClassVar[type[NextTokenObjective]] = NextTokenObjective
    """Class of the objective, which a subclass of the task may replace."""

    def tokenize(self, job: Job[Any], template: Template, limit: int) -> SupervisedData:
        options: SupervisedOptions = job.config
        if not is_large(job.train):
            examples = tokenize_cached(
                template, job.train, limit, truncate_prompts=options.truncate_prompts
            )
            return _check(job, examples, limit)
        tokenization = TokenizationSettings(template.copy(), limit, options.truncate_prompts)
        streamed = StreamedExamples.from_records(tokenization, job.train)
        if streamed is not None:
            return _check_streamed(job, streamed)
        with TemporaryDirectory(prefix="tunesmith-") as folder:
            examples = template.tokenize_records(
                job.train, limit, truncate_prompts=options.truncate_prompts, folder=Path(folder)
            )
        return _check(job, examples, limit)

    def longest_row(self, data: SupervisedData, limit: int) -> int:
        return _longest_row(data if isinstance(data, StreamedExamples) else data.examples)

    def token_rows(self, data: SupervisedData, template: Template) -> Iterator[Row]:
        if isinstance(data, StreamedExamples):
            rows = sample_evenly(range(len(data)))
            data.load(rows)
            examples: Sequence[Example] = [data[row] for row in rows]
        else:
            examples = data.examples
        for example in examples:
            yield example.ids
            yield example.trained

    def prepare(self, session: TrainingSession, data: SupervisedData) -> PreparedTraining:
        if isinstance(data, StreamedExamples):
            return _prepare_streamed(session, data, self.objective_class)
        objective = _objective(session, data.examples, self.objective_class)
        totals = BatchCounts(data.tokens, data.trained_tokens, data.trained_tokens)
        details = {"prefix_tokens": objective.prefix_length}
        return PreparedTraining(
            objective,
            session.adapted,
            totals,
            details=details,
            affected_rows=lambda: count_affected(data),
        )

    def objective_over(
        self,
        session: TrainingSession,
        prepared: PreparedTraining,
        records: Sequence[Record],
        name: str,
    ) -> NextTokenObjective | None:
        """Return the objective over the examples of these records.

        The result is None if no record gives an example.
        """
        options: SupervisedOptions = session.options
        tokenized = session.template.tokenize_records(
            records, session.limit, truncate_prompts=options.truncate_prompts
        )
        if not len(tokenized.examples):
            return None
        objective = _objective(session, tokenized.examples, self.objective_class)
        objective.row_groups = list_row_groups(records, tokenized.examples.records.tolist())
        return objective


def _objective(
    session: TrainingSession,
    examples: Sequence[Example],
    kind: type[NextTokenObjective],
    load: Callable[[Sequence[int]], None] = lambda rows: None,
) -> NextTokenObjective:
    return kind(
        session.adapted,
        examples,
        packing=session.options.packing,
        rows_alone=session.layout.kind == "alone",
        report=session.report,
        load=load,
    )


def _prepare_streamed(
    session: TrainingSession, examples: StreamedExamples, kind: type[NextTokenObjective]
) -> PreparedTraining:
    """Return the objective over streamed examples, and tokenize the first batches."""
    job, options = session.job, session.options
    account = StreamAccount(job, examples, options.max_skipped, _remedy(job, session.limit))
    objective = _objective(session, examples, kind, account.load)
    order = BatchOrder.from_options(len(examples), options, job.seed)
    newest = job.checkpoints.newest()
    examples.prefetch(rows for _, rows in order.batches(newest.step if newest else 0))

    def count_tokens() -> tuple[int, int] | None:
        batches = [rows for _, rows in order.batches()]
        if not all(map(objective.is_counted, batches)):
            return None  # an earlier process of this run has trained on some of them
        counts = [objective.counts(rows) for rows in batches]
        return sum(c.tokens for c in counts), sum(c.trained_tokens for c in counts)

    return PreparedTraining(
        objective,
        session.adapted,
        None,
        details={"prefix_tokens": objective.prefix_length, "streamed": True},
        count_tokens=count_tokens,
        affected_rows=lambda: count_affected(examples),
    )


def _check(job: Job[Any], examples: TokenizedRecords, limit: int) -> TokenizedRecords:
    """Report the rows that are skipped or changed.

    Raises:
        DataError: no rows are left, or too many rows are skipped.
    """
    report_skipped(job, examples.skipped)
    for finding in _findings(examples, limit):
        job.emit(finding)
    if not len(examples.examples):
        first = examples.skipped[0] if examples.skipped else None
        raise DataError(
            first.where if first else "data",
            "no rows can be used: " + ", ".join(filter(None, (first.cause, first.detail)))
            if first
            else "no rows",
            hint=_remedy(job, limit),
        )
    check_skipped_share(
        examples.skipped, len(job.train), job.config.max_skipped, _remedy(job, limit)
    )
    return examples


def _check_streamed(job: Job[Any], examples: StreamedExamples) -> StreamedExamples:
    """Report the rows that are skipped in advance, and that more may follow."""
    skipped = list(examples.skipped.values())
    # A resumed run keeps the file, which also has the rows that an earlier process found later.
    if job.checkpoints.newest() is None:
        report_skipped(job, skipped)
    remedy = _remedy(job, examples.tokenization.max_length)
    check_skipped_share(skipped, len(job.train), job.config.max_skipped, remedy)
    text = f"{len(examples):,} rows: tokenizing during training, because the dataset is large"
    job.emit(FindingReported(level="info", source="data", message=text))
    return examples


def _remedy(job: Job[Any], limit: int) -> str:
    remedy = describe_remedy(limit, job.config.max_length)
    if job.config.truncate_prompts:
        return remedy
    return f"{remedy}, or set technique.truncate_prompts = true"


def _findings(examples: TokenizedRecords, limit: int) -> Iterator[FindingReported]:
    if examples.truncated:
        count = format_count(len(examples.truncated), "prompt")
        text = f"shortened {count} to fit into {limit} tokens"
        yield FindingReported(level="warning", source="data", message=text)
    if examples.split_texts:
        count = format_count(len(examples.split_texts), "text")
        text = f"split {count} longer than {limit} tokens into several rows"
        yield FindingReported(level="info", source="data", message=text)
    if examples.with_control_tokens:
        count = format_count(len(examples.with_control_tokens), "row")
        text = f"kept control tokens in the text of {count} as plain text"
        yield FindingReported(level="info", source="data", message=text)

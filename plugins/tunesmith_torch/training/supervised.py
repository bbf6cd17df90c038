"""Supervised fine-tuning: cross-entropy of the completions in the data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from tunesmith.contracts import Job
from tunesmith.errors import DataError
from tunesmith.events import Notice
from tunesmith_torch.data.packing import (
    Example,
    MicroBatch,
    collate,
    pack,
    pad_to_multiple,
    padded_batches,
)
from tunesmith_torch.data.templates import Template
from tunesmith_torch.data.tokenized_records import TokenizedRecords
from tunesmith_torch.kernels.tree_attention import TreeLayout
from tunesmith_torch.losses.rows_alone import loss_of_rows
from tunesmith_torch.losses.selected_positions import get_lm_head, hidden_at_targets
from tunesmith_torch.models.adapters import AdaptedModel
from tunesmith_torch.options.training import SupervisedOptions
from tunesmith_torch.prefix.common_prefix import collate_with_prefix, shared_prefix_length
from tunesmith_torch.prefix.prefix_check import Report
from tunesmith_torch.training.loop import BatchCounts, RunWithBudget
from tunesmith_torch.training.token_digest import Row
from tunesmith_torch.training.trainer import Prepared, Session, TrainingTask

Layout = tuple[MicroBatch, TreeLayout | None]
"""A micro-batch, and the tree of its rows if they share a common prefix (else None)."""


class NextTokenObjective:
    """Negative log-likelihood summed over the trained tokens, divided by their number in the batch.

    A token is trained if its role contributes to the loss (``Example.trained``): usually the
    completion and the token that ends it. If all rows begin with the same tokens, a system prompt
    for example, each micro-batch computes this common prefix once
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
    ) -> None:
        """``report`` receives the reason if the rows' common prefix cannot be shared."""
        self._model = adapted.model
        self._device = adapted.base.model.device
        self._examples = examples
        self._packing = packing
        self._rows_alone = rows_alone
        self._lengths = np.array([len(example.ids) for example in examples])
        # The first token of a row has no token before it that could predict it.
        self._trained = np.array([int(np.sum(e.trained)) - bool(e.trained[0]) for e in examples])
        self._loss_weights = np.array(
            [_loss_weight(e, count) for e, count in zip(examples, self._trained, strict=True)]
        )
        # The layout with a common prefix has no weights of tokens.
        can_share = packing and all(example.weights is None for example in examples)
        with adapted.autocast():
            self.prefix_length = (
                shared_prefix_length(examples, adapted.model, report) if can_share else 0
            )

    def __len__(self) -> int:
        return len(self._examples)

    def counts(self, rows: Sequence[int]) -> BatchCounts:
        """Return the tokens of the rows; the loss is divided by the weights of the trained ones.

        Without weights in the data, that is their number.
        """
        trained = int(self._trained[rows].sum())
        tokens = int(self._lengths[rows].sum())
        divisor = float(self._loss_weights[rows].sum())
        return BatchCounts(tokens=tokens, trained_tokens=trained, loss_divisor=divisor)

    def prepare(self, rows: Sequence[int], run: RunWithBudget) -> Sequence[int]:
        """Return the rows: nothing needs to be prepared."""
        return rows

    def start_update(self) -> None:
        """Do nothing: :meth:`loss` records no metrics."""

    def micro_batches(self, prepared: Sequence[int], budget: int) -> list[Layout]:
        """Pack the rows end to end, or pad them, at most ``budget`` tokens in each micro-batch."""
        rows = prepared
        if not rows:
            return []
        lengths = self._lengths[rows] - self.prefix_length
        split = pack if self._packing else padded_batches
        # A row that is longer than the budget gets a separate micro-batch.
        bins = split(lengths, max(budget - self.prefix_length, int(lengths.max())))
        return [self._layout([rows[i] for i in members]) for members in bins]

    def loss(self, micro_batch: Layout) -> Tensor:
        """Return nats summed over the trained tokens of the micro-batch."""
        batch, tree_layout = micro_batch[0].to(self._device), micro_batch[1]
        if self._rows_alone:
            return loss_of_rows(self._model, batch)
        attention_kwargs = {} if tree_layout is None else {"tree_layout": tree_layout}
        hidden_ND = hidden_at_targets(self._model, batch, attention_kwargs=attention_kwargs)
        return get_lm_head(self._model).loss(hidden_ND, batch)

    def _layout(self, rows: Sequence[int]) -> Layout:
        if self.prefix_length:
            return collate_with_prefix(self._examples, rows, self.prefix_length)
        return pad_to_multiple(collate(self._examples, rows, packed=self._packing)), None

    def metrics(self) -> dict[str, float]:
        """Return nothing: the loss is the only metric."""
        return {}


def _loss_weight(example: Example, trained: int) -> float:
    """Return the sum of the weights of an example's trained tokens, without its first token."""
    if example.weights is None:
        return float(trained)
    return float(np.asarray(example.weights)[1:][np.asarray(example.trained)[1:]].sum())


class SupervisedTask(TrainingTask[TokenizedRecords]):
    """Train on the next tokens of conversations, completions and texts."""

    can_compute_rows_alone = True

    def tokenize(self, job: Job[Any], template: Template, limit: int) -> TokenizedRecords:
        options: SupervisedOptions = job.config
        examples = template.tokenize_records(
            job.train, limit, truncate_prompts=options.truncate_prompts
        )
        return _require_examples(job, examples, limit)

    def longest_row(self, data: TokenizedRecords, limit: int) -> int:
        return max(len(example) for example in data.examples)

    def token_rows(self, data: TokenizedRecords, template: Template) -> Iterator[Row]:
        for example in data.examples:
            yield example.ids
            yield example.trained

    def prepare(self, session: Session, data: TokenizedRecords) -> Prepared:
        adapted, options = session.adapted, session.options
        objective = NextTokenObjective(
            adapted,
            data.examples,
            packing=options.packing,
            rows_alone=session.layout.kind == "alone",
            report=session.report,
        )
        totals = BatchCounts(data.tokens, data.trained_tokens, data.trained_tokens)
        return Prepared(
            objective, adapted, totals, details={"prefix_tokens": objective.prefix_length}
        )


def _require_examples(job: Job[Any], examples: TokenizedRecords, limit: int) -> TokenizedRecords:
    """Report the rows that are left out or changed; refuse data of which nothing is left."""
    for notice in _notices(examples, limit):
        job.emit(notice)
    if not examples.examples:
        first = examples.left_out[0] if examples.left_out else None
        raise DataError(
            first.where if first else "data",
            f"no row can be learned from: {first.cause}, {first.detail}" if first else "no rows",
            hint=f"rows may have {limit} tokens (technique.max_length, and the model's context)",
        )
    return examples


def _notices(examples: TokenizedRecords, limit: int) -> Iterator[Notice]:
    causes = Counter(row.cause for row in examples.left_out)
    for cause, count in causes.items():
        first = next(row for row in examples.left_out if row.cause == cause)
        text = f"{count} rows are left out of training: {cause}; first: {first.where}"
        yield Notice(level="warning", source="data", message=f"{text} ({first.detail})")
    if examples.truncated:
        text = f"{examples.truncated} prompts were shortened to fit {limit} tokens"
        yield Notice(level="warning", source="data", message=text)
    if examples.split_texts:
        text = (
            f"{examples.split_texts} texts were longer than {limit} tokens and became several rows"
        )
        yield Notice(level="info", source="data", message=text)
    if examples.with_control_tokens:
        count = examples.with_control_tokens
        text = f"{count} rows contain control tokens as text; they stay plain text"
        yield Notice(level="info", source="data", message=text)

"""The addition of ``[retention]``: replayed rows, a divergence, projected updates, a budget.

The loss of a step, with B rows per batch, r = share * B replayed rows per step on average, and T
the mean number of trained tokens of a row that may be replayed::

    L  =  mean over the tokens of the batch
        + sum over the replayed tokens / (B T)          a replayed row counts as one row of B
        + keep * mean over their tokens of KL(previous model || model)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from tunesmith.errors import DataError, UsageError
from tunesmith.events import FindingReported
from tunesmith.records import Record
from tunesmith.text import format_count
from tunesmith_continual.budget import Budget
from tunesmith_continual.divergence import PreviousModel, count_trained
from tunesmith_continual.options import RetentionOptions
from tunesmith_continual.replay import (
    ReplayLog,
    ReplayRow,
    count_until,
    digest_of,
    order_rows,
    read_answers,
    read_earlier_rows,
    read_prompts,
    write_answers,
)
from tunesmith_continual.subspace import Projection, find_reading_layers, measure_subspaces
from tunesmith_torch.data.packing import Example
from tunesmith_torch.generation.text_model import TorchTextModel
from tunesmith_torch.runtime.eval_mode import eval_mode
from tunesmith_torch.training.additions import AdditionContext, TrainingAddition, Update
from tunesmith_torch.training.supervised import NextTokenObjective

FEW_ROWS = 10
"""With fewer replayed rows per earlier run, the run warns."""
MAX_BUDGET = 1 << 30
"""Token budget without a limit: the loop already sized the items of a call."""


@dataclass(frozen=True)
class RowPool:
    """Rows for the term in the order of their use, with ``rate`` rows per step."""

    rows: Sequence[ReplayRow]
    examples: Sequence[Example]
    order: Sequence[int]
    rate: float

    def draw(self, step: int) -> list[int]:
        """Return the numbers of the rows of a step; a long training starts over."""
        first, end = count_until(step, self.rate), count_until(step + 1, self.rate)
        return [self.order[number % len(self.order)] for number in range(first, end)]

    @cached_property
    def mean_trained(self) -> float:
        """Mean number of trained tokens of a row."""
        return sum(map(count_trained, self.examples)) / len(self.examples)


Item = tuple[Literal["replay", "self", "keep"], int]
"""A pool, and the number of a row in it."""


class Retention(TrainingAddition):
    """Adds replayed rows and the divergence to the loss, and watches the budget."""

    def __init__(
        self,
        options: RetentionOptions,
        context: AdditionContext,
        pools: Mapping[str, RowPool],
        budget: Budget | None,
        previous: PreviousModel | None,
    ) -> None:
        self._options, self._context, self._pools = options, context, pools
        self._budget, self._previous = budget, previous
        self._log = ReplayLog(context.folder)
        self._keep_tokens = 0
        # Without packing, so that no shared prefix is searched for in rows of several tasks.
        self._objectives = {
            name: NextTokenObjective(context.adapted, pool.examples, packing=False)
            for name, pool in pools.items()
            if name != "keep"
        }

    def draw(self, step: int) -> list[tuple[int, Item]]:
        drawn: list[tuple[int, Item]] = []
        for name, pool in self._pools.items():
            rows = pool.draw(step)
            if name == "keep":
                self._keep_tokens = sum(count_trained(pool.examples[row]) for row in rows)
            if name == "replay" or (name == "keep" and self._options.keep_on == "earlier"):
                self._log.add([pool.rows[row] for row in rows])
            drawn += [(len(pool.examples[row]), (name, row)) for row in rows]  # type: ignore[misc]
        return drawn

    def term(self, items: Sequence[Item]) -> Tensor:
        total = torch.zeros((), device=self._context.language_model.device)
        for name, pool in self._pools.items():
            rows = [row for kind, row in items if kind == name]
            if not rows:
                continue
            if name == "keep":
                assert self._previous is not None
                summed = self._previous.divergence(pool.examples, rows)
                total = total + self._options.keep * summed / self._keep_tokens
                continue
            objective = self._objectives[name]
            divisor = self._context.job.config.batch_size * pool.mean_trained
            for part in objective.micro_batches(rows, MAX_BUDGET):
                total = total + objective.loss(part) / divisor
        return total

    def evaluate(self, step: int) -> Literal["continue", "finish"]:
        is_last = step == self._context.steps
        if self._budget is None or (step % self._options.measures_every and not is_last):
            return "continue"
        return self._budget.check(step)

    def state_dict(self) -> dict[str, Tensor]:
        ids = [row.id for pool in self._pools.values() for row in pool.rows]
        state = {"rows": torch.frombuffer(bytearray(digest_of(ids)), dtype=torch.uint8)}
        return state | (self._budget.state_dict() if self._budget else {})

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        if not torch.equal(state["rows"].cpu(), Retention.state_dict(self)["rows"]):
            raise UsageError(
                "[retention]: the rows of earlier tasks have changed since this run started",
                hint="start a new run: its replay then has none of the deleted rows",
            )
        if self._budget:
            self._budget.load_state_dict(state)


class ProjectedRetention(Retention):
    """Also projects every update; only this class makes the loop copy the weights."""

    projection: Projection

    def transform_update(self, update: Update) -> None:
        self.projection.transform(update)

    def state_dict(self) -> dict[str, Tensor]:
        return super().state_dict() | self.projection.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        super().load_state_dict(state)
        self.projection.load_state_dict(state)


def build_retention(options: RetentionOptions, context: AdditionContext) -> TrainingAddition:
    """Build the addition from the initial weights.

    Raises:
        DataError: there is no usable earlier row or no usable prompt.
    """
    if not context.is_text_model:  # a reward model predicts no tokens
        return TrainingAddition()
    job, batch = context.job, context.job.config.batch_size
    earlier = read_earlier_rows(options.earlier) if options.needs_rows else []
    pools = {}
    if options.replay:
        pools["replay"] = _build_pool(context, earlier, options.replay * batch, options.replay_by)
        _report_replay(context, pools["replay"])
    if options.self_replay:
        answers = _answer_general_prompts(options, context)
        pools["self"] = _build_pool(context, answers, options.self_replay * batch)
    if options.keep:
        new = [ReplayRow("", record) for record in job.train]
        rows = new if options.keep_on == "new" else earlier
        pools["keep"] = _build_pool(context, rows, options.keep_rows)
    needs_previous = options.keep or options.measures_every
    previous = PreviousModel(context) if needs_previous else None
    budget = None
    if options.measures_every and previous is not None:
        if options.measures_on == "earlier":
            records = _choose_earlier(earlier, options.kl_rows, job.seed)
        else:
            records = [*(job.validation or job.train)][: options.kl_rows]
        examples = _tokenize(context, records)[0]
        budget = Budget(options, context, lambda: previous.measure(examples))
    kind = ProjectedRetention if options.project else Retention
    built = kind(options, context, pools, budget, previous)
    if isinstance(built, ProjectedRetention):
        built.projection = _build_projection(options, context, earlier)
    return built


def _tokenize(
    context: AdditionContext, records: Sequence[Record]
) -> tuple[Sequence[Example], Sequence[int]]:
    """Return the examples of the records, and the number of each one's record.

    Raises:
        DataError: no record is usable.
    """
    shorten = getattr(context.job.config, "truncate_prompts", False)
    found = context.template.tokenize_records(records, context.limit, truncate_prompts=shorten)
    if not len(found.examples):
        raise DataError("retention", "no row to replay fits into the model's context")
    return list(found.examples), found.examples.records.tolist()


def _build_pool(
    context: AdditionContext, rows: Sequence[ReplayRow], rate: float, by: Any = "random"
) -> RowPool:
    examples, numbers = _tokenize(context, [row.record for row in rows])
    usable = [rows[number] for number in numbers]
    examples = [
        _without_end(example) if row.is_cut else example
        for row, example in zip(usable, examples, strict=True)
    ]
    losses = _measure_losses(context, examples) if by == "surprise" else ()
    return RowPool(usable, examples, order_rows(usable, by, context.job.seed, losses), rate)


def _without_end(example: Example) -> Example:
    """Return an example without a loss on the last token, which ends the answer."""
    trained_T = np.array(example.trained, dtype=bool)
    trained_T[np.flatnonzero(trained_T)[-1]] = False
    return replace(example, trained=trained_T)


def _report_replay(context: AdditionContext, pool: RowPool) -> None:
    """Report how many rows will be replayed, and warn if they are few."""
    count, runs = count_until(context.steps, pool.rate), len({row.run for row in pool.rows})
    text = (
        f"replays {format_count(count, 'row')} of {format_count(runs, 'earlier run')} in "
        f"{format_count(context.steps, 'step')}"
    )
    if count >= FEW_ROWS * runs:
        context.job.emit(FindingReported(level="info", source="retention", message=text))
        return
    text += ", which may be too few to keep the earlier tasks"
    hint = "raise retention.replay"
    context.job.emit(FindingReported(level="warning", source="retention", message=text, hint=hint))


@torch.no_grad()
def _measure_losses(context: AdditionContext, examples: Sequence[Example]) -> list[float]:
    """Return the initial model's mean loss per token of each row."""
    objective = NextTokenObjective(context.adapted, examples, packing=False)
    losses = [math.inf] * len(examples)
    with eval_mode(context.adapted.model), context.adapted.autocast():
        for part in objective.micro_batches(range(len(examples)), 2048):
            for row, loss in objective.row_losses(part):
                losses[row] = loss / count_trained(examples[row])
    return losses


def _answer_general_prompts(options: RetentionOptions, context: AdditionContext) -> list[ReplayRow]:
    """Return the base model's own answers, which are generated once and then stored.

    With full fine-tuning, there is no adapter to switch off: the initial model answers.
    """
    path = context.folder / "self_replay.jsonl"
    if not path.exists():
        prompts = read_prompts(options.self_replay_prompts)
        model: Any = context.adapted.model
        is_adapter = context.adapted.format == "adapter"
        switched: AbstractContextManager[Any] = (
            model.disable_adapter() if is_adapter else nullcontext()
        )
        with switched:
            text_model = TorchTextModel(model, context.template, context.language_model.device)
            write_answers(path, prompts, text_model.generate(prompts, options.self_replay_tokens))
    return read_answers(path)


def _choose_earlier(earlier: Sequence[ReplayRow], count: int, seed: int) -> list[Record]:
    """Return this many random rows of each earlier run."""
    chosen: list[Record] = []
    for run in dict.fromkeys(row.run for row in earlier):
        own = [row for row in earlier if row.run == run]
        chosen += [own[number].record for number in order_rows(own, "random", seed)[:count]]
    return chosen


def _build_projection(
    options: RetentionOptions, context: AdditionContext, earlier: Sequence[ReplayRow]
) -> Projection:
    """Measure the subspaces on some rows of each earlier run."""
    chosen = _choose_earlier(earlier, options.project_rows, context.job.seed)
    examples = _tokenize(context, chosen)[0]
    objective = NextTokenObjective(context.adapted, examples, packing=False)

    def run_rows() -> None:
        with eval_mode(context.adapted.model), context.adapted.autocast():
            for row in range(len(examples)):  # alone, so that no padding is measured
                for part in objective.micro_batches([row], MAX_BUDGET):
                    objective.loss(part)

    layers = find_reading_layers(context.adapted.model, context.parameters)
    bases = measure_subspaces(layers, run_rows, options.project)
    projection = Projection(bases, [name for name in context.parameters if ".lora_B." in name])
    projection.project_initial(context.parameters)
    return projection

"""Compute the loss of each row, without gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch

from tunesmith.events import JSON
from tunesmith.records import Record
from tunesmith_torch.models.adapters import AdaptedModel
from tunesmith_torch.runtime import distributed, sharding
from tunesmith_torch.runtime.eval_mode import eval_mode
from tunesmith_torch.training.loop import Objective

__all__ = ["RowObjective", "list_row_groups"]

T = TypeVar("T")


class RowObjective(Objective, Protocol):
    """An objective that can return the loss of each row."""

    row_groups: Sequence[str | None] | None
    """The group of each row, as :func:`list_row_groups` returns them."""

    def row_losses(self, micro_batch: Any) -> list[tuple[int, float]]:
        """Return the index and the summed loss of each row in the micro-batch.

        The unit is that of :meth:`Objective.loss`: nats for a log-likelihood.
        """
        ...


@dataclass(frozen=True)
class RowLosses:
    """The losses of some rows at one step of the training."""

    step: int
    """Number of optimizer steps taken before the measurement."""
    losses: Sequence[float]
    """The loss of each row divided by its weight, such as nats per token."""
    weights: Sequence[float]
    """The weight of each row: its number of tokens in the loss, pairs or completions."""
    groups: Sequence[str | None] | None = None
    """The group of each row; rows in one group depend on each other. None: no row has a group."""

    @property
    def mean(self) -> float:
        """The weighted mean of all rows, computed like the loss of a batch in training."""
        total = math.fsum(self.weights)
        pairs = zip(self.losses, self.weights, strict=True)
        return math.fsum(loss * weight for loss, weight in pairs) / total if total else math.nan

    def to_json(self) -> JSON:
        """Return the step, and each row's loss (nats per token), weight (tokens) and group."""
        groups = {} if self.groups is None else {"groups": [*self.groups]}
        return {"step": self.step, "losses": [*self.losses], "weights": [*self.weights], **groups}


def list_row_groups(
    records: Sequence[Record], numbers: Sequence[int]
) -> Sequence[str | None] | None:
    """Return the group of each row; None if no row has one.

    Args:
        records: the records that the rows were made from; a record may give several rows or none.
        numbers: for each row, the number of its record.
    """
    groups = [records[number].group for number in numbers]
    return groups if any(group is not None for group in groups) else None


def measure_row_losses(
    adapted: AdaptedModel, objective: RowObjective, step: int, budget: int
) -> tuple[RowLosses, dict[str, float]]:
    """Return the loss of each of the objective's rows, and the metrics over all rows.

    The model is in eval mode during the call, and no random numbers are used, so training continues
    exactly as it would without this call. ``budget``: maximum tokens in a micro-batch. Each rank
    computes its share of the rows.
    """

    def run(compute: Callable[[int], T], /) -> T:
        return compute(budget)

    def measure(rows: Sequence[int]) -> list[float]:
        prepared = objective.prepare(rows, run)
        losses: dict[int, float] = {}
        for micro_batch in objective.micro_batches(prepared, budget):
            losses.update(objective.row_losses(micro_batch))
        return [losses.get(row, 0.0) for row in rows]

    objective.start_update()
    with (
        sharding.summon_full_params(adapted.model),
        torch.no_grad(),
        eval_mode(adapted.model),
        adapted.autocast(),
    ):
        sums = distributed.map_rows(len(objective), measure)
    weights = [objective.counts([row]).loss_divisor for row in range(len(objective))]
    pairs = zip(sums, weights, strict=True)
    losses = [total / weight if weight else 0.0 for total, weight in pairs]
    return RowLosses(step, losses, weights, objective.row_groups), objective.metrics()

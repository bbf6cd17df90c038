"""The matrix R[i, j]: the score on task j after training on task i, and what follows from it.

With T tasks, numbered from 1, and R[i, j] measured on the test rows of task j (Lopez-Paz and
Ranzato 2017, section 2; Chaudhry et al. 2018, section 3)::

    average accuracy    mean over j      of  R[T, j]
    backward transfer   mean over j < T  of  R[T, j] - R[j, j]
    forgetting          mean over j < T  of  max over i < T of R[i, j]  -  R[T, j]

Each difference is paired by row. Its interval is that of two models on the same rows. The rows of
the tasks are independent, so the interval of a mean over tasks combines theirs (MOVER: Zou and
Donner 2008, equation 4)::

    low = m - sqrt(sum over j of ((d_j - low_j) / n)^2)        high accordingly
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.events import Measured
from tunesmith.offers import Metric
from tunesmith.statistics import Interval
from tunesmith_evidence.pairs import PairedRows, read_pairs
from tunesmith_evidence.statistics import compare


@dataclass(frozen=True)
class Matrix:
    """The scores of a chain: ``cells[i, j]`` for i >= j, numbered from 0.

    The ``records`` of a cell is the absolute path of its values by row.
    """

    names: Sequence[str]
    cells: Mapping[tuple[int, int], Measured]
    base: Mapping[int, Measured]
    """The untrained base model's score on a task, where its run measured it."""
    metrics: Mapping[str, Metric]

    @property
    def last(self) -> int:
        """Number of the last task."""
        return len(self.names) - 1

    @property
    def obstacle(self) -> str:
        """The reason why scores of different tasks have no mean; empty if they have one."""
        kinds = {(event.unit, event.higher_is_better) for event in self.diagonal}
        return "" if len(kinds) == 1 else "the metrics of the tasks have different units"

    @property
    def diagonal(self) -> list[Measured]:
        """Each task's score right after it was trained."""
        return [self.cells[task, task] for task in range(len(self.names))]

    def change(self, task: int, before: int, after: int) -> Interval:
        """Return R[after, task] - R[before, task], paired by row, positive if it improved."""
        first, second = self.cells[before, task], self.cells[after, task]
        return compare_rows(first, second, self.metrics)

    def best_before(self, task: int) -> int:
        """Return the training, except the last one, after which the task scored best."""
        sign = 1 if self.diagonal[task].higher_is_better else -1
        return max(range(task, self.last), key=lambda i: sign * self.cells[i, task].value)

    @property
    def average(self) -> Interval:
        """Average accuracy: the mean of the last model's scores over all tasks."""
        events = [self.cells[self.last, task] for task in range(len(self.names))]
        return combine([Interval(e.value, e.low, e.high, e.n, e.units) for e in events])

    @property
    def backward_transfer(self) -> Interval | None:
        """Mean change of the earlier tasks since each was trained; None for a single task."""
        return self._mean(lambda task: self.change(task, task, self.last))

    @property
    def forgetting(self) -> Interval | None:
        """Mean loss of the earlier tasks since their best score; None for a single task.

        The best of several scores is partly luck, which the interval does not cover.
        """
        found = self._mean(lambda task: self.change(task, self.best_before(task), self.last))
        return found and _negate(found)

    @property
    def last_loss(self) -> float | None:
        """Mean loss of the earlier tasks in the last training alone; None if it has no mean."""
        if self.obstacle or not self.last:
            return None
        changes = [self.change(task, self.last - 1, self.last) for task in range(self.last)]
        return -math.fsum(change.value for change in changes) / len(changes)

    def score_after(self, training: int) -> float | None:
        """Return the mean score that a task could lose after a training.

        None if a score has no lower limit of 0, or is better if it is lower.
        """
        events = [self.cells[training, task] for task in range(training + 1)]
        if self.obstacle or not all(e.higher_is_better and e.lowest == 0 for e in events):
            return None
        return math.fsum(event.value for event in events) / len(events)

    def _mean(self, of: Any) -> Interval | None:
        return combine([of(task) for task in range(self.last)]) if self.last else None

    def to_json(self) -> dict[str, Any]:
        """Return all scores and figures as JSON."""
        rows = range(len(self.names))
        figures = {"average_accuracy": self.average} if not self.obstacle else {}
        if self.last and not self.obstacle:
            figures |= {
                "backward_transfer": self.backward_transfer,  # type: ignore[dict-item]
                "forgetting": self.forgetting,  # type: ignore[dict-item]
            }
        return {
            "tasks": [
                {
                    "name": self.names[j],
                    "evaluator": self.diagonal[j].evaluator,
                    "metric": self.diagonal[j].metric,
                    "base": _event_json(self.base.get(j)),
                    "change": _json(self.change(j, j, self.last)) if j < self.last else None,
                }
                for j in rows
            ],
            "matrix": [[_event_json(self.cells.get((i, j))) for j in rows] for i in rows],
            **{name: _json(value) for name, value in figures.items()},
            **({"no_mean": self.obstacle} if self.obstacle else {}),
        }


def compare_rows(
    first: Measured, second: Measured, metrics: Mapping[str, Metric] | None = None
) -> Interval:
    """Return the change from the first to the second model on the same rows.

    It is positive if the second one is better. Both ``records`` are absolute paths.
    """
    pairs: PairedRows = read_pairs(Path("/"), first, second, metrics or {})
    found = compare(
        pairs.baseline_values,
        pairs.tuned_values,
        second.higher_is_better,
        weights=pairs.weights,
        groups=pairs.groups,
        bounds=second.bounds,
    ).difference
    return found if second.higher_is_better else _negate(found)


def combine(parts: Sequence[Interval]) -> Interval:
    """Return the mean of independent estimates with its interval (MOVER)."""
    count = len(parts)
    value = math.fsum(part.value for part in parts) / count
    below = math.hypot(*(part.value - part.low for part in parts)) / count
    above = math.hypot(*(part.high - part.value for part in parts)) / count
    rows, units = sum(part.n for part in parts), sum(part.units for part in parts)
    return Interval(value, value - below, value + above, rows, units)


def _negate(interval: Interval) -> Interval:
    low, high = -interval.high, -interval.low
    return Interval(-interval.value, low, high, interval.n, interval.units)


def _json(interval: Interval | None) -> dict[str, Any] | None:
    names = ("value", "low", "high", "n", "units")
    return {name: getattr(interval, name) for name in names} if interval else None


def _event_json(event: Measured | None) -> dict[str, Any] | None:
    names = ("value", "low", "high", "n")
    return {name: getattr(event, name) for name in names} if event else None

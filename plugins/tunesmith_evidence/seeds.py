"""Seeds: is a difference that of the training, or of its seed?

The technique is trained again with other seeds, on the same training rows, and measured on the same
held-out rows. Each row then has the mean of its values, and the seeds have a spread.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from tunesmith.events import JSON, TUNED, Measured
from tunesmith.execution.evaluate import read_rows
from tunesmith.execution.report import Report
from tunesmith.plan import Plan
from tunesmith.statistics import Interval
from tunesmith_evidence.statistics import paired_difference

Outcome = Literal["better", "worse", "unclear"]


@dataclass(frozen=True)
class SeedRun:
    """A run with one of the seeds."""

    seed: int
    """The seed of the run, ``[run] seed``."""
    folder: Path
    tuned: Measured
    """The metric that decides the verdict."""


@dataclass(frozen=True)
class PooledSeeds:
    """The differences of several seeds from one rival, on the rows that the rival answered."""

    by_seed: Sequence[float]
    """Tuned minus rival, for each seed."""
    pooled: Interval
    """The difference of the mean over the seeds; the interval is that of the rows."""
    spread: float
    """Standard deviation of the differences of the seeds."""
    outcome: Outcome
    """``better`` or ``worse`` if the interval excludes 0 and the seeds agree on the sign."""


def change_seed(plan: Plan, seed: int) -> Plan:
    """Return the plan with another seed."""
    return replace(plan, run=plan.run.model_copy(update={"seed": seed}))


def find_tuned(report: Report) -> Measured | None:
    """Return the tuned model's value of the metric that decides; None if it was not measured."""
    return next((event for event in report.measured.values() if event.model == TUNED), None)


def pool_seeds(
    runs: Sequence[SeedRun], rival: Measured, folder: Path, confidence: float
) -> PooledSeeds:
    """Compare the mean over the seeds with a rival, whose rows are below ``folder``.

    Raises:
        IntegrityError: an evaluation is lost or damaged.
    """
    rows = _by_number(folder / rival.records, rival.metric)
    tuned = [_by_number(run.folder / run.tuned.records, rival.metric) for run in runs]
    numbers = [number for number in rows if all(number in each for each in tuned)]
    base = [_value(rows[number], rival.metric) for number in numbers]
    values = [[_value(each[number], rival.metric) for number in numbers] for each in tuned]
    weights = [float(tuned[0][number][rival.metric]["weight"]) for number in numbers]
    groups = [tuned[0][number].get("group") for number in numbers]

    def compare(tuned_values: Sequence[float]) -> Interval:
        return paired_difference(
            base,
            tuned_values,
            weights if len(set(weights)) > 1 else None,
            groups=groups if any(groups) else None,
            confidence=confidence,
            bounds=rival.bounds,
        )

    by_seed = [compare(of_seed).value for of_seed in values]
    pooled = compare([statistics.fmean(row) for row in zip(*values, strict=True)])
    spread = statistics.stdev(by_seed) if len(by_seed) > 1 else 0.0
    agree = min(by_seed) > 0 or max(by_seed) < 0
    outcome: Outcome = "unclear"
    if agree and (pooled.low > 0 or pooled.high < 0):
        outcome = "better" if (pooled.value > 0) == rival.higher_is_better else "worse"
    return PooledSeeds(by_seed, pooled, spread, outcome)


def _by_number(path: Path, metric: str) -> dict[int, JSON]:
    return {int(row.get("row", place)): row for place, row in enumerate(read_rows(path, metric))}


def _value(row: JSON, metric: str) -> float:
    return float(row[metric]["value"])

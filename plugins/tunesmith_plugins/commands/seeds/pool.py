"""Pool the runs of several seeds, to show whether a difference comes from training or the seed.

All runs use the same training rows and the same test rows. Each test row then has a mean score over
the seeds, and the scores of the seeds have a standard deviation.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from tunesmith.events import Measured
from tunesmith.offers import Metric
from tunesmith.plan import Plan
from tunesmith.statistics import Interval
from tunesmith_evidence.pairs import NO_METRICS, read_pairs
from tunesmith_evidence.statistics import paired_difference

Outcome = Literal["better", "worse", "unclear"]


@dataclass(frozen=True)
class SeedRun:
    """A run with one of the seeds, and the score of its tuned model."""

    seed: int
    """Seed of the run, ``[run] seed``."""
    folder: Path
    tuned: Measured
    """Score of the tuned model by the verdict's metric."""


@dataclass(frozen=True)
class PooledSeeds:
    """The differences of several seeds from a baseline, on the rows that the baseline answered."""

    by_seed: Sequence[float]
    """Tuned minus baseline for each seed, in the unit of the metric."""
    pooled: Interval
    """Difference of the mean over seeds; its interval only covers the sampling of test rows."""
    spread: float
    """Standard deviation of the differences between seeds."""
    outcome: Outcome
    """``better`` or ``worse`` if the interval excludes 0 and all seeds agree on the sign."""


def change_seed(plan: Plan, seed: int) -> Plan:
    """Return a copy of the plan with another seed."""
    return replace(plan, run=plan.run.model_copy(update={"seed": seed}))


def pool_seeds(
    runs: Sequence[SeedRun],
    baseline: Measured,
    folder: Path,
    confidence: float,
    metrics: Mapping[str, Metric] = NO_METRICS,
) -> PooledSeeds:
    """Compare the mean over the seeds with a baseline, whose scores are in ``folder``.

    ``metrics`` are the installed metrics by name, for those that are computed over all rows.

    Raises:
        IntegrityError: a per-row results file is missing or damaged.
    """
    paths = [str((run.folder / run.tuned.records).resolve()) for run in runs]
    tuned = [replace(run.tuned, records=path) for run, path in zip(runs, paths, strict=True)]
    pairs = [read_pairs(folder, baseline, of_seed, metrics) for of_seed in tuned]
    first = pairs[0]

    def compare(values: Sequence[float]) -> Interval:
        return paired_difference(
            first.baseline_values,
            values,
            first.weights,
            groups=first.groups,
            confidence=confidence,
            bounds=baseline.bounds,
        )

    values = [of_seed.tuned_values for of_seed in pairs]
    by_seed = [compare(of_seed).value for of_seed in values]
    pooled = compare([statistics.fmean(row) for row in zip(*values, strict=True)])
    spread = statistics.stdev(by_seed) if len(by_seed) > 1 else 0.0
    agree = min(by_seed) > 0 or max(by_seed) < 0
    outcome: Outcome = "unclear"
    if agree and (pooled.low > 0 or pooled.high < 0):
        outcome = "better" if (pooled.value > 0) == baseline.higher_is_better else "worse"
    return PooledSeeds(by_seed, pooled, spread, outcome)

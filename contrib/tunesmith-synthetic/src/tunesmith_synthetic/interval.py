"""Intervals of a difference that cover both the sampling of rows and of seeds."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tunesmith_evidence.statistics import paired_difference

FEW_CHANGED_UNITS = 10
"""With fewer units that differ, the spread of the differences is not trusted."""


@dataclass(frozen=True)
class Difference:
    """A mean difference over rows and seeds, with its confidence interval."""

    value: float
    low: float
    high: float
    units: int
    """Number of independent rows or groups of rows."""


def compare_over_rows_and_seeds(
    differences: NDArray[np.float64],
    groups: Sequence[Hashable | None],
    confidence: float = 0.95,
    *,
    weights: Sequence[float] | None = None,
    bounds: tuple[float, float] | None = None,
) -> Difference:
    """Return the mean of differences (seeds, rows) with an interval for new rows and new seeds.

    Rows and seeds are crossed random effects. The variance of the mean is at most the sum of the
    variances of the row means and of the seed means, because both contain the residual. Degrees of
    freedom are Satterthwaite's (1946, equation 17). Rows of a group count as one unit.

    If few units differ, their spread says little about further rows. The interval then also covers
    the interval of the rows alone, which assumes the largest differences that the ``bounds`` of the
    metric allow.
    """
    from scipy.stats import t

    labels = {group: n for n, group in enumerate(dict.fromkeys(_label(groups)))}
    codes = np.array([labels[label] for label in _label(groups)])
    seeds, units = len(differences), len(labels)
    share_N = np.ones(len(groups)) if weights is None else np.array(weights)
    share_N = share_N / share_N.sum()
    by_row, by_seed = differences.mean(axis=0), differences @ share_N
    mean = float(by_seed.mean())
    if units < 2:
        return Difference(mean, -math.inf, math.inf, units)
    totals = np.bincount(codes, share_N * (by_row - mean), minlength=units)
    of_rows = float((totals**2).sum()) * units / (units - 1)
    of_seeds = float(by_seed.var(ddof=1)) / seeds if seeds > 1 else 0.0
    total, margin = of_rows + of_seeds, 0.0
    if total > 0:
        parts = of_rows**2 / (units - 1) + (of_seeds**2 / (seeds - 1) if seeds > 1 else 0.0)
        margin = float(t.ppf((1 + confidence) / 2, total**2 / parts)) * math.sqrt(total)
    low, high = mean - margin, mean + margin
    if len({*codes[differences.any(axis=0)].tolist()}) < FEW_CHANGED_UNITS:
        rows = paired_difference(
            [0.0] * len(groups),
            by_row.tolist(),
            weights,
            groups=groups,
            confidence=confidence,
            bounds=bounds,
        )
        low, high = min(low, rows.low), max(high, rows.high)
    return Difference(mean, low, high, units)


def _label(groups: Sequence[Hashable | None]) -> list[Hashable]:
    return [(n, None) if group is None else group for n, group in enumerate(groups)]

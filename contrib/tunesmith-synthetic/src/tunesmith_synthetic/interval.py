"""Intervals of a difference that cover both the sampling of rows and of seeds."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


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
) -> Difference:
    """Return the mean of differences (seeds, rows) with an interval for new rows and new seeds.

    Rows and seeds are crossed random effects. The variance of the mean is at most the sum of the
    variances of the row means and of the seed means, because both contain the residual. Degrees of
    freedom are Satterthwaite's (1946, equation 17). Rows of a group count as one unit.
    """
    from scipy.stats import t

    labels = {group: n for n, group in enumerate(dict.fromkeys(_label(groups)))}
    codes = np.array([labels[label] for label in _label(groups)])
    seeds, count, units = len(differences), differences.shape[1], len(labels)
    mean = float(differences.mean())
    totals = np.bincount(codes, (differences.mean(axis=0) - mean), minlength=units)
    of_rows = float((totals**2).sum()) / count**2 * units / max(units - 1, 1)
    of_seeds = float(differences.mean(axis=1).var(ddof=1)) / seeds if seeds > 1 else 0.0
    total = of_rows + of_seeds
    if units < 2:
        return Difference(mean, -math.inf, math.inf, units)
    if total == 0:
        return Difference(mean, mean, mean, units)
    parts = of_rows**2 / (units - 1) + (of_seeds**2 / (seeds - 1) if seeds > 1 else 0.0)
    margin = float(t.ppf((1 + confidence) / 2, total**2 / parts)) * math.sqrt(total)
    return Difference(mean, mean - margin, mean + margin, units)


def _label(groups: Sequence[Hashable | None]) -> list[Hashable]:
    return [(n, None) if group is None else group for n, group in enumerate(groups)]

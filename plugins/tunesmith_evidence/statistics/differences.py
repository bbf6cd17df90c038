"""Differences of two models on the same records."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tunesmith.statistics.sample import check_finite, check_length


def paired_differences(base: Sequence[float], tuned: Sequence[float]) -> list[float]:
    """Return tuned minus base for each record.

    Raises:
        ValueError: the lengths differ, or a value is not finite.
    """
    check_length("tuned", len(tuned), len(base))
    check_finite("base", base)
    check_finite("tuned", tuned)
    return [t - b for b, t in zip(base, tuned, strict=True)]


def compute_share(values: Sequence[float], weights: Sequence[float] | None, target: float) -> float:
    """Compute the weighted share of the values that equal `target`."""
    if weights is None:
        return sum(1 for v in values if v == target) / len(values)
    hits = math.fsum(w for v, w in zip(values, weights, strict=True) if v == target)
    return hits / math.fsum(weights)

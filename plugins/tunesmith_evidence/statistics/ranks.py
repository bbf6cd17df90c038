"""Compare two samples by the ranks of their values."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

__all__ = ["probability_below"]


def probability_below(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the probability that a value of ``first`` is below a value of ``second``.

    Ties count as one half. This is the area under the ROC curve (AUC) for separating the two
    samples by their values. Source: Mann and Whitney, Ann. Math. Statist. 18 (1947) 50.

    Raises:
        ValueError: a sample is empty.
    """
    if not first or not second:
        raise ValueError("probability_below: both samples need at least one value")
    ordered = sorted(second)
    total = 0.0
    for value in first:
        total += len(ordered) - (bisect_left(ordered, value) + bisect_right(ordered, value)) / 2
    return total / (len(first) * len(ordered))

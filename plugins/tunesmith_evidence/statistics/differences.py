"""Compute the paired differences of two models on the same records."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from tunesmith.statistics.sample import Sample, build_sample, check_finite, check_length, is_binary

__all__ = ["label_unit", "paired_differences"]

_DIGITS = 12
"""Significant digits in a difference, counted from the first digit of the larger value."""


@dataclass(frozen=True)
class PairedSample:
    """The validated differences of two models on the same records, with their units."""

    differences: Sequence[float]
    """Tuned minus base, for each record whose weight is above zero."""
    weights: Sequence[float] | None
    """Weight of each difference, or None for equal weights."""
    sample: Sample
    is_binary: bool
    """True if all values of both models are 0 or 1."""
    changed: int
    """Number of units with at least one record whose two values differ."""
    gain: float
    """Weighted mean of the positive differences, where all other records count as zero."""
    loss: float
    """Weighted mean of the absolute negative differences, where all other records count as zero."""


def pair_values(
    base: Sequence[float],
    tuned: Sequence[float],
    weights: Sequence[float] | None,
    groups: Sequence[Hashable | None] | None,
) -> PairedSample:
    """Pair the values of two models, and reduce them to independent units.

    Raises:
        ValueError: lengths differ, a value is not finite, or weights or groups do not match.
    """
    differences = paired_differences(base, tuned)
    sample = build_sample(differences, weights, groups)
    used = [i for i in range(len(differences)) if weights is None or weights[i] > 0]
    kept = [differences[i] for i in used]
    heavy = None if weights is None else [weights[i] for i in used]
    labels = range(len(kept)) if groups is None else [label_unit(groups[i], i) for i in used]
    both = ([values[i] for i in used] for values in (base, tuned))
    gain, loss = (
        _mean([max(sign * difference, 0.0) for difference in kept], heavy) for sign in (1, -1)
    )
    changed = {label for label, difference in zip(labels, kept, strict=True) if difference}
    return PairedSample(kept, heavy, sample, is_binary(None, *both), len(changed), gain, loss)


def label_unit(group: Hashable | None, number: int) -> Hashable:
    """Return the label of a record's unit, which is its group, or the record if it has none."""
    return ("record", number) if group is None else ("group", group)


def _mean(values: Sequence[float], weights: Sequence[float] | None) -> float:
    if weights is None:
        return math.fsum(values) / len(values)
    return math.fsum(v * w for v, w in zip(values, weights, strict=True)) / math.fsum(weights)


def paired_differences(base: Sequence[float], tuned: Sequence[float]) -> list[float]:
    """Return tuned minus base for each record.

    Raises:
        ValueError: the lengths differ, or a value is not finite.
    """
    check_length("tuned", len(tuned), len(base))
    check_finite("base", base)
    check_finite("tuned", tuned)
    return [_subtract(t, b) for b, t in zip(base, tuned, strict=True)]


def _subtract(first: float, second: float) -> float:
    """Subtract two values, and round the difference to remove floating-point error.

    Equal differences must stay equal, because rounding noise would look like real variance.
    """
    difference, largest = first - second, max(abs(first), abs(second))
    if not difference:
        return 0.0
    return round(difference, _DIGITS - math.frexp(largest)[1] * 3 // 10)


def compute_share(values: Sequence[float], weights: Sequence[float] | None, target: float) -> float:
    """Compute the weighted share of values that equal `target`."""
    return _mean([float(value == target) for value in values], weights)

"""Differences of two models on the same records."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from tunesmith.statistics.sample import Sample, build_sample, check_finite, check_length, is_binary


@dataclass(frozen=True)
class PairedSample:
    """The differences of two models on the same records, checked and reduced to units."""

    differences: Sequence[float]
    """Tuned minus base, for each record."""
    weights: Sequence[float] | None
    """Weight of each difference; None: all are equal."""
    sample: Sample
    is_binary: bool
    """True if all values of both models are 0 or 1."""


def pair_values(
    base: Sequence[float],
    tuned: Sequence[float],
    weights: Sequence[float] | None,
    groups: Sequence[Hashable | None] | None,
) -> PairedSample:
    """Return the paired sample of two models.

    Raises:
        ValueError: lengths differ, a value is not finite, or weights or groups do not fit.
    """
    differences = paired_differences(base, tuned)
    sample = build_sample(differences, weights, groups)
    return PairedSample(differences, weights, sample, is_binary(None, base, tuned))


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

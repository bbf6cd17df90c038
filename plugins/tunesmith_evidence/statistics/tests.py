"""Compute p-values of paired differences with the exact McNemar test or a sign-flip test."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from itertools import product

from tunesmith_evidence.statistics.differences import PairedSample, pair_values
from tunesmith_evidence.statistics.resampling import draw_signed_sums

SIGN_PATTERNS = 4_999
"""Default number of random sign patterns."""
_EXACT = 16  # Up to this many units, all sign patterns are enumerated instead of sampled.


def paired_p_value(
    base: Sequence[float],
    tuned: Sequence[float],
    weights: Sequence[float] | None = None,
    *,
    groups: Sequence[Hashable | None] | None = None,
    resamples: int = SIGN_PATTERNS,
    seed: int = 0,
) -> float:
    """Compute the two-sided p-value of the hypothesis that tuning changed nothing on average.

    Values of right or wrong use the exact McNemar test. Other values use a sign-flip test, where
    the sign of each unit's difference is flipped at random; for up to 16 units, all patterns are
    enumerated. The p-value is never zero.
    """
    return p_value_of_pairs(pair_values(base, tuned, weights, groups), resamples, seed)


def p_value_of_pairs(paired: PairedSample, resamples: int, seed: int) -> float:
    """Compute the two-sided p-value of a paired sample. See :func:`paired_p_value`."""
    sample = paired.sample
    if paired.is_binary and sample.is_simple:
        up = sum(1 for difference in paired.differences if difference > 0)
        down = sum(1 for difference in paired.differences if difference < 0)
        return _mcnemar(up, down)
    totals = [d + sample.value * w for d, w in zip(sample.deviations, sample.weights, strict=True)]
    return _sign_flips(totals, resamples, seed)


def _mcnemar(up: int, down: int) -> float:
    """Compute the exact two-sided McNemar p-value in integer arithmetic.

    `up` and `down` are the numbers of records that improved and worsened.
    """
    total, smaller = up + down, min(up, down)
    term = tail = 1
    for k in range(smaller):
        term = term * (total - k) // (k + 1)
        tail += term
    return max(min(1.0, 2 * tail / (1 << total)), math.ulp(0.0))


def _sign_flips(totals: Sequence[float], resamples: int, seed: int) -> float:
    """Compute the share of sign patterns whose sum is at least as far from zero as observed."""
    sizes = sorted(abs(t) for t in totals if t != 0)
    if not sizes:
        return 1.0
    limit = abs(math.fsum(totals)) - 1e-9 * math.fsum(sizes)  # tolerance for rounding
    tables = [_signed_sums(sizes[i : i + 8]) for i in range(0, len(sizes), 8)]
    if len(sizes) <= _EXACT:
        sums = [math.fsum(parts) for parts in product(*tables)]
        return sum(1 for s in sums if abs(s) >= limit) / len(sums)
    tables = [table * (256 // len(table)) for table in tables]
    count = int((abs(draw_signed_sums(tables, resamples, seed)) >= limit).sum())
    return (count + 1) / (resamples + 1)


def _signed_sums(sizes: Sequence[float]) -> list[float]:
    """Return the sums of these numbers for every combination of signs.

    Eight numbers have a table of 256 sums, so one lookup with a random byte flips eight signs.
    """
    sums = [0.0]
    for size in sizes:
        sums = [s + size for s in sums] + [s - size for s in sums]
    return sums

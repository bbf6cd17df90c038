"""Paired significance tests: exact McNemar, and sign flips."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from itertools import product
from operator import getitem
from random import Random

from tunesmith.statistics.sample import build_sample, is_binary
from tunesmith_evidence.statistics.differences import paired_differences

_EXACT = 16  # the sign flips of up to this number of units are enumerated instead of sampled


def paired_p_value(
    base: Sequence[float],
    tuned: Sequence[float],
    weights: Sequence[float] | None = None,
    *,
    groups: Sequence[Hashable | None] | None = None,
    resamples: int = 4_999,
    seed: int = 0,
) -> float:
    """Compute the two-sided p-value of the hypothesis that tuning changed nothing on average.

    Exact McNemar for right/wrong values; otherwise the sign of each unit's difference is flipped
    at random (for up to 16 units, all sign patterns are enumerated). Never zero.
    """
    sample = build_sample(paired_differences(base, tuned), weights, groups)
    if is_binary(None, base, tuned) and sample.is_simple:
        up = sum(1 for b, t in zip(base, tuned, strict=True) if t > b)
        down = sum(1 for b, t in zip(base, tuned, strict=True) if t < b)
        return _mcnemar(up, down)
    totals = [d + sample.value * w for d, w in zip(sample.deviations, sample.weights, strict=True)]
    return _sign_flips(totals, resamples, seed)


def _mcnemar(up: int, down: int) -> float:
    """Compute the exact two-sided McNemar p-value in integer arithmetic.

    `up` and `down` are the numbers of records that got better and worse.
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
    limit = abs(math.fsum(totals)) - 1e-9 * math.fsum(sizes)  # equal sums differ by rounding
    tables = [_signed_sums(sizes[i : i + 8]) for i in range(0, len(sizes), 8)]
    if len(sizes) <= _EXACT:
        sums = [math.fsum(parts) for parts in product(*tables)]
        return sum(1 for s in sums if abs(s) >= limit) / len(sums)
    tables = [table * (256 // len(table)) for table in tables]
    rng, count = Random(seed), 0
    for _ in range(resamples):
        if abs(sum(map(getitem, tables, rng.randbytes(len(tables))))) >= limit:
            count += 1
    return (count + 1) / (resamples + 1)


def _signed_sums(sizes: Sequence[float]) -> list[float]:
    """Return the sums of these numbers for every choice of signs.

    For eight numbers they are a table of 256: one lookup by a random byte flips eight signs.
    """
    sums = [0.0]
    for size in sizes:
        sums = [s + size for s in sums] + [s - size for s in sums]
    return sums

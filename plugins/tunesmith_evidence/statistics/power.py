"""Compute statistical power: detectable differences, and the rows needed to detect one."""

from __future__ import annotations

import math
from functools import cache

from tunesmith.statistics.distributions import NORMAL, student_quantile
from tunesmith_evidence.statistics.bisection import bisect


def minimum_detectable_difference(
    n: int,
    *,
    spread: float | None = None,
    discordant: float = 0.0,
    confidence: float = 0.95,
    power: float = 0.8,
) -> float:
    """Compute the smallest true difference that `n` paired records detect with this power.

    Args:
        n: number of paired records.
        spread: standard deviation of the differences per record, in the metric's unit; None for a
            right/wrong metric.
        discordant: share of records where exactly one model is right. At 0, the result is the lower
            limit for right/wrong metrics, where no record gets worse.
        confidence: level of the interval.
        power: probability of detecting the difference.

    Returns:
        The difference, or infinity if no difference could be detected.

    Raises:
        ValueError: a parameter is out of range.
    """
    if n < 1:
        raise ValueError(f"n: must be at least 1, got {n}")
    if not (0 < confidence < 1 and 0 < power < 1):
        raise ValueError(f"confidence and power: must be in (0, 1), got {confidence} and {power}")
    if not (0 <= discordant <= 1 and (spread is None or spread >= 0)):
        raise ValueError(f"spread or discordant: out of range, got {spread} and {discordant}")
    if spread is not None:
        if n == 1:
            return math.inf
        reach = student_quantile(1 - (1 - confidence) / 2, n - 1) + student_quantile(power, n - 1)
        return reach * spread / math.sqrt(n)
    floor = _clean_floor(n, confidence, power)
    if discordant == 0 or math.isinf(floor):
        return floor
    return max(floor, _connor(n, discordant, confidence, power))


@cache  # Comparing many runs on the same rows repeats this computation.
def _clean_floor(n: int, confidence: float, power: float) -> float:
    """Compute the smallest share of improved records that is detected if no record gets worse."""
    needed = math.floor(1 - math.log2(1 - confidence)) + 1  # first k with 2 * 0.5^k < alpha
    if n < needed:
        return math.inf

    def is_detected(share: float) -> bool:
        terms = (math.comb(n, k) * share**k * (1 - share) ** (n - k) for k in range(needed))
        return 1 - math.fsum(terms) >= power

    return bisect(is_detected, 0.0, 1.0)


def _connor(n: int, discordant: float, confidence: float, power: float) -> float:
    """Compute the detectable difference of paired shares (Connor, with continuity correction)."""
    z_alpha = NORMAL.inv_cdf(1 - (1 - confidence) / 2)
    z_power = NORMAL.inv_cdf(power)

    def is_detected(delta: float) -> bool:
        share = max(discordant, delta)
        noise = z_alpha * math.sqrt(share) + z_power * math.sqrt(max(0.0, share - delta * delta))
        return delta * n - 1 >= math.sqrt(n) * noise

    return bisect(is_detected, 0.0, 1.0)


def rows_needed(
    n: int, error: float, distance: float, *, confidence: float = 0.95, power: float = 0.8
) -> int:
    """Compute how many rows an interval needs to exclude a limit, if the spread stays as measured.

    Args:
        n: number of rows that the difference was measured on.
        error: standard error of the difference on these rows.
        distance: distance between the measured difference and the limit; positive.
        confidence: level of the interval.
        power: probability that the interval then excludes the limit.

    Raises:
        ValueError: a parameter is out of range.
    """
    if n < 1 or not (0 <= error < math.inf and 0 < distance < math.inf):
        raise ValueError(f"n, error or distance: out of range, got {n}, {error} and {distance}")
    reach = NORMAL.inv_cdf(1 - (1 - confidence) / 2) + NORMAL.inv_cdf(power)
    return math.ceil(n * (reach * error / distance) ** 2)

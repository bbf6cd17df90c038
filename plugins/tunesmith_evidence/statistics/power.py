"""Power: the smallest difference that a given number of records can show."""

from __future__ import annotations

import math
from functools import cache

from tunesmith.statistics.distributions import NORMAL, student_quantile
from tunesmith_evidence.statistics.bisection import bisect


def minimum_detectable(
    n: int,
    *,
    spread: float | None = None,
    discordant: float = 0.0,
    confidence: float = 0.95,
    power: float = 0.8,
) -> float:
    """Compute the smallest true difference that `n` paired records detect with this power.

    Give `spread`, the standard deviation of the per-record differences in the metric's unit, or
    for right/wrong metrics `discordant`, the share of records on which the two models disagree.
    With neither, the result is the lower limit for right/wrong metrics: no record gets worse.
    Infinite where no difference could be detected.

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


@cache  # comparisons of many runs ask for the same rows again and again
def _clean_floor(n: int, confidence: float, power: float) -> float:
    """Compute the smallest share of improved records that McNemar's test detects.

    No record gets worse.
    """
    needed = math.floor(1 - math.log2(1 - confidence)) + 1  # first k with 2 * 0.5^k < alpha
    if n < needed:
        return math.inf

    def is_detected(share: float) -> bool:
        terms = (math.comb(n, k) * share**k * (1 - share) ** (n - k) for k in range(needed))
        return 1 - math.fsum(terms) >= power

    return bisect(is_detected, 0.0, 1.0)


def _connor(n: int, discordant: float, confidence: float, power: float) -> float:
    """Compute the detectable difference of paired shares by Connor's formula.

    With McNemar's continuity correction.
    """
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
    """Compute the rows that show a difference from a limit, if both stay as measured.

    Args:
        n: the rows on which it was measured.
        error: the standard error of the difference on these rows.
        distance: how far the measured difference is from the limit, above 0.

    Raises:
        ValueError: a parameter is out of range.
    """
    if n < 1 or not (0 <= error < math.inf and 0 < distance < math.inf):
        raise ValueError(f"n, error or distance: out of range, got {n}, {error} and {distance}")
    reach = NORMAL.inv_cdf(1 - (1 - confidence) / 2) + NORMAL.inv_cdf(power)
    return math.ceil(n * (reach * error / distance) ** 2)

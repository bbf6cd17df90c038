"""The power of the canary test: how strongly a model must memorize to be noticed.

Shifts are in standard deviations of the controls' scores, which are close to normal.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy.optimize import brentq
from scipy.stats import beta, norm

from tunesmith_evidence.side_effects.canaries import ALPHA

POWER = 0.8
MAX_SHIFT = 40.0
MIDDLES = (np.arange(1000) + 0.5) / 1000
"""Probabilities of the quantiles that stand for a distribution."""


def find_shift(
    find_power: Callable[[float, int, int], float], canaries: int, controls: int
) -> float:
    """Return the smallest shift that a test notices with probability :data:`POWER`, or inf."""
    if find_power(MAX_SHIFT, canaries, controls) < POWER:
        return math.inf
    return float(brentq(lambda s: find_power(s, canaries, controls) - POWER, 0, MAX_SHIFT))


def find_single(shift: float, canaries: int, controls: int) -> float:
    """Return the probability that one shifted canary has a significant rank.

    The quantile of the r-th highest control has a beta distribution (David and Nagaraja 2003, 2.3).
    """
    rank = math.ceil((controls + 1) * ALPHA / 2 / canaries) - 1  # Holm's first threshold
    if rank < 1:
        return 0.0
    quantiles = beta.ppf(MIDDLES, controls - rank + 1, rank)
    return float(norm.cdf(shift - norm.ppf(quantiles)).mean())


def find_together(shift: float, canaries: int, controls: int) -> float:
    """Return the probability that the Mann-Whitney test of all shifted canaries is significant.

    Normal approximation with the variance under the shift (Lehmann 1975, Nonparametrics, 2.3).
    """
    pairs = canaries * controls
    exceeds = float(norm.cdf(shift / math.sqrt(2)))
    both = float((norm.cdf(norm.ppf(MIDDLES) + shift) ** 2).mean()) - exceeds**2
    variance = pairs * (exceeds * (1 - exceeds) + (canaries + controls - 2) * both)
    critical = norm.ppf(1 - ALPHA / 2) * math.sqrt(pairs * (canaries + controls + 1) / 12)
    return float(norm.cdf((pairs * (exceeds - 0.5) - critical) / math.sqrt(max(variance, 1e-9))))


def describe_power(canaries: int, controls: int) -> str:
    """Return the power of the test as a sentence."""
    single = find_shift(find_single, canaries, controls)
    together = find_shift(find_together, canaries, controls)
    one = "no single canary, which needs more controls"
    if math.isfinite(single):
        one = f"a single canary from a shift of {single:.1f} standard deviations"
    return (
        f"{canaries} canaries among {controls} controls: with {POWER:.0%} probability, the test "
        f"notices {one}, and all canaries together from {together:.2f}"
    )

"""Quantiles that the standard library does not provide."""

from __future__ import annotations

import math
from statistics import NormalDist

NORMAL = NormalDist()
_FEW = 100
"""With at least this many degrees of freedom, the expansion in 1/df has an error below 1e-8."""
_MOST_STEPS = 60
"""Maximum steps of Newton's method; 5 to 30 are enough."""


def student_quantile(p: float, df: int) -> float:
    """Compute a quantile of Student's t; the relative error is below 1e-6 for p up to 1 - 1e-9.

    Newton's method inverts the exact probabilities, Abramowitz and Stegun 26.7.3 and 26.7.4. For
    many degrees of freedom, their expansion 26.7.5 is used instead.
    """
    if p < 0.5:
        return -student_quantile(1 - p, df)
    if df >= _FEW:
        return _expand_quantile(NORMAL.inv_cdf(p), df)
    # The probability is a concave function of the angle, so no step of Newton's method overshoots.
    slope = 2 / math.sqrt(math.pi) * math.exp(math.lgamma((df + 1) / 2) - math.lgamma(df / 2))
    angle = 0.0
    for _ in range(_MOST_STEPS):
        missing = 2 * p - 1 - _probability_within(angle, df)
        step = missing / (slope * math.cos(angle) ** (df - 1))
        if step < 1e-15:
            break
        angle += step
    return math.sqrt(df) * math.tan(angle)


def _probability_within(angle: float, df: int) -> float:
    """Return the probability that ``|t|`` is below ``sqrt(df) * tan(angle)``."""
    sine, cosine = math.sin(angle), math.cos(angle)
    term, total = (cosine, 0.0) if df % 2 else (1.0, 0.0)
    for n in range(df % 2 + 1, df, 2):
        total += term
        term *= cosine * cosine * n / (n + 1)
    return 2 / math.pi * (angle + sine * total) if df % 2 else sine * total


def _expand_quantile(z: float, df: int) -> float:
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92_160,
    )
    return z + sum(term / float(df) ** power for power, term in enumerate(terms, start=1))

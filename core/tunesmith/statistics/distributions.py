"""Quantiles that the standard library does not have."""

from __future__ import annotations

import math
from statistics import NormalDist

NORMAL = NormalDist()


def student_quantile(p: float, df: int) -> float:
    """Compute a quantile of Student's t; exact for 1 and 2 degrees of freedom, else within 1 %.

    Abramowitz and Stegun 26.7.5, for p between 0.5 and 0.999.
    """
    if df == 1:
        return math.tan(math.pi * (p - 0.5))
    if df == 2:
        return (2 * p - 1) * math.sqrt(2 / (4 * p * (1 - p)))
    z = NORMAL.inv_cdf(p)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92_160,
    )
    return z + sum(term / float(df) ** power for power, term in enumerate(terms, start=1))

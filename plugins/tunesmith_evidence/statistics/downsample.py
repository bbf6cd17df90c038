"""The points of a curve: the means of equal sections."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

__all__ = ["downsample"]


def downsample(values: Sequence[float], width: int) -> list[float]:
    """Return at most ``width`` values: the means of equal sections."""
    if len(values) <= width:
        return list(values)
    edges = [round(n * len(values) / width) for n in range(width + 1)]
    return [math.fsum(values[start:end]) / (end - start) for start, end in pairwise(edges)]

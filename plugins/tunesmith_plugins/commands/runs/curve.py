"""A curve in several lines of text."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tunesmith.terminal import downsample


def plot(
    values: Sequence[float], *, width: int = 60, height: int = 8, mark: str = "•"
) -> list[str]:
    """Return a curve as lines, with its highest and lowest value at the left edge."""
    points = downsample(values, width)
    finite = [point for point in points if math.isfinite(point)]
    if not finite:
        return []
    low, span = min(finite), max(finite) - min(finite)
    rows = [[" "] * len(points) for _ in range(height)]
    for column, point in enumerate(points):
        if math.isfinite(point):
            level = round((point - low) / span * (height - 1)) if span else 0
            rows[height - 1 - level][column] = mark
    labels = {0: f"{max(finite):.4g}", height - 1: f"{low:.4g}"}
    margin = max(map(len, labels.values()))
    return [f"{labels.get(n, ''):>{margin}} |{''.join(row).rstrip()}" for n, row in enumerate(rows)]

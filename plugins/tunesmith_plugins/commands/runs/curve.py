"""A curve in several lines of text."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tunesmith_evidence.statistics.downsample import downsample


def plot(
    values: Sequence[float],
    *,
    width: int = 60,
    height: int = 8,
    mark: str = "•",
    others: Sequence[tuple[float, float]] = (),
    other_mark: str = "o",
) -> list[str]:
    """Return a curve as lines, with its highest and lowest value at the left edge.

    ``others``: further points, each with its position between 0 (left) and 1, and its value.
    """
    points = downsample(values, width)
    finite = [point for point in points if math.isfinite(point)]
    if not finite:
        return []
    others = [(position, value) for position, value in others if math.isfinite(value)]
    finite += [value for _, value in others]
    low, span = min(finite), max(finite) - min(finite)
    rows = [[" "] * len(points) for _ in range(height)]
    marks = [(column, point, mark) for column, point in enumerate(points) if math.isfinite(point)]
    marks += [(round(x * (len(points) - 1)), value, other_mark) for x, value in others]
    for column, point, character in marks:
        level = round((point - low) / span * (height - 1)) if span else 0
        rows[height - 1 - level][column] = character
    labels = {0: f"{max(finite):.4g}", height - 1: f"{low:.4g}"}
    margin = max(map(len, labels.values()))
    return [f"{labels.get(n, ''):>{margin}} |{''.join(row).rstrip()}" for n, row in enumerate(rows)]

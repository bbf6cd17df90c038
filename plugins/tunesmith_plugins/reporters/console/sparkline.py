"""Draw a curve in one line of text."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tunesmith_evidence.report.curves import downsample

BLOCKS = "▁▂▃▄▅▆▇█"
ASCII_BLOCKS = "_.-:=+*#"


def sparkline(values: Sequence[float], width: int = 40, *, blocks: str = BLOCKS) -> str:
    """Return a curve in one line: lowest value as the first block, highest as the last.

    If there are more than ``width`` values, average equally long sections. Values that are not
    finite appear as ``?``.
    """
    points = downsample(values, width)
    finite = [point for point in points if math.isfinite(point)]
    if not finite:
        return "?" * len(points)
    low, span = min(finite), max(finite) - min(finite)
    top = len(blocks) - 1
    return "".join(
        blocks[round((p - low) / span * top) if span else 0] if math.isfinite(p) else "?"
        for p in points
    )

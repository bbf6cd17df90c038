"""What a terminal can show: colour or not, moving or not; and curves made of letters."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from itertools import pairwise
from typing import TextIO

BLOCKS = "▁▂▃▄▅▆▇█"
ASCII_BLOCKS = "_.-:=+*#"


def colourful(stream: TextIO) -> bool:
    """Whether text on the stream may be coloured.

    ``NO_COLOR`` and ``FORCE_COLOR`` decide, in this order, where they are set; otherwise it takes
    a terminal that is not dumb, and no ``CI``.
    """
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or _capable(stream)


def lively(stream: TextIO) -> bool:
    """Whether lines on the stream may be drawn over: a progress bar rather than a log."""
    return not os.environ.get("NO_COLOR") and _capable(stream)


def unicode(stream: TextIO) -> bool:
    """Whether the stream can carry block characters."""
    return (stream.encoding or "").lower().replace("-", "").startswith("utf")


def sparkline(values: Sequence[float], width: int = 40, *, blocks: str = BLOCKS) -> str:
    """A curve in one line: the lowest value is the first block, the highest the last.

    More values than ``width`` are averaged in stretches; what is not finite shows as ``?``.
    """
    points = _thinned(values, width)
    finite = [point for point in points if math.isfinite(point)]
    if not finite:
        return "?" * len(points)
    low, span = min(finite), max(finite) - min(finite)
    top = len(blocks) - 1
    return "".join(
        blocks[round((p - low) / span * top) if span else 0] if math.isfinite(p) else "?"
        for p in points
    )


def plot(
    values: Sequence[float], *, width: int = 60, height: int = 8, mark: str = "•"
) -> list[str]:
    """A curve in several lines, with its highest and lowest value at the left edge."""
    points = _thinned(values, width)
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


def _thinned(values: Sequence[float], width: int) -> list[float]:
    """At most ``width`` values: the means of equal stretches."""
    if len(values) <= width:
        return list(values)
    edges = [round(n * len(values) / width) for n in range(width + 1)]
    return [math.fsum(values[start:end]) / (end - start) for start, end in pairwise(edges)]


def _capable(stream: TextIO) -> bool:
    quiet = os.environ.get("CI", "").lower() not in {"", "0", "false"}
    return stream.isatty() and os.environ.get("TERM", "") not in {"dumb", ""} and not quiet

"""Capabilities of a terminal (colour, live display, Unicode), and curves as text."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from itertools import pairwise
from typing import TextIO

BLOCKS = "▁▂▃▄▅▆▇█"
ASCII_BLOCKS = "_.-:=+*#"


def supports_color(stream: TextIO) -> bool:
    """Return True if text on the stream may be coloured.

    ``NO_COLOR`` and ``FORCE_COLOR`` decide, in this order, if they are set. Otherwise the stream
    must be a terminal that is not dumb, and ``CI`` must not be set.
    """
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or _is_interactive(stream)


def supports_live_display(stream: TextIO) -> bool:
    """Return True if lines on the stream may be overwritten, as by a progress bar."""
    return not os.environ.get("NO_COLOR") and _is_interactive(stream)


def supports_unicode(stream: TextIO) -> bool:
    """Return True if the encoding of the stream has block characters."""
    return (stream.encoding or "").lower().replace("-", "").startswith("utf")


def sparkline(values: Sequence[float], width: int = 40, *, blocks: str = BLOCKS) -> str:
    """Return a curve in one line: the lowest value is the first block, the highest the last.

    More than ``width`` values are averaged in equal sections; a value that is not finite is
    shown as ``?``.
    """
    points = _downsample(values, width)
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
    """Return a curve as lines, with its highest and lowest value at the left edge."""
    points = _downsample(values, width)
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


def _downsample(values: Sequence[float], width: int) -> list[float]:
    """Return at most ``width`` values: the means of equal sections."""
    if len(values) <= width:
        return list(values)
    edges = [round(n * len(values) / width) for n in range(width + 1)]
    return [math.fsum(values[start:end]) / (end - start) for start, end in pairwise(edges)]


def _is_interactive(stream: TextIO) -> bool:
    in_ci = os.environ.get("CI", "").lower() not in {"", "0", "false"}
    return stream.isatty() and os.environ.get("TERM", "") not in {"dumb", ""} and not in_ci

"""Capabilities of a terminal (colour, live display, Unicode), and the points of curves in it."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from itertools import pairwise
from typing import TextIO


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


def downsample(values: Sequence[float], width: int) -> list[float]:
    """Return at most ``width`` values: the means of equal sections."""
    if len(values) <= width:
        return list(values)
    edges = [round(n * len(values) / width) for n in range(width + 1)]
    return [math.fsum(values[start:end]) / (end - start) for start, end in pairwise(edges)]


def _is_interactive(stream: TextIO) -> bool:
    in_ci = os.environ.get("CI", "").lower() not in {"", "0", "false"}
    return stream.isatty() and os.environ.get("TERM", "") not in {"dumb", ""} and not in_ci

"""Find where a monotone condition becomes true, by bisection."""

from __future__ import annotations

from collections.abc import Callable


def bisect(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Find the smallest point in [low, high] where the monotone condition `holds` is true."""
    for _ in range(60):
        middle = (low + high) / 2
        if middle in (low, high):  # no number lies between them
            break
        if holds(middle):
            high = middle
        else:
            low = middle
    return high

"""Plot a curve as text, for the terminal and Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tunesmith_evidence.number_text import format_number, format_rate
from tunesmith_evidence.report.curves import Curve, Points, downsample

__all__ = ["ASCII_MARKS", "UNICODE_MARKS", "plot_curve"]

LOG_RATIO = 50
"""The scale is logarithmic if the highest value is more than this multiple of the lowest."""


@dataclass(frozen=True)
class PlotMarks:
    """The characters that a plot is drawn with."""

    point: str = "•"
    validation: str = "○"
    axis: str = "│"
    corner: str = "└"
    line: str = "─"


UNICODE_MARKS = PlotMarks()
ASCII_MARKS = PlotMarks("*", "o", "|", "+", "-")


def plot_curve(
    curve: Curve, *, width: int = 60, height: int = 8, marks: PlotMarks = UNICODE_MARKS
) -> list[str]:
    """Plot a curve as lines of text, with its validation values, a title and the steps.

    The scale is logarithmic if the values span a wide range (:data:`LOG_RATIO`).

    Returns:
        The lines of the plot; empty if the curve has fewer than two points.
    """
    if len(curve.points) < 2:
        return []
    first, last = curve.points[0][0], curve.points[-1][0]
    values = [value for _, value in (*curve.points, *curve.validation)]
    log = min(values) > 0 and max(values) / min(values) > LOG_RATIO
    scaled = [math.log(value) if log else value for _, value in curve.points]
    validation = [
        ((step - first) / (last - first), math.log(value) if log else value)
        for step, value in _inside(curve.validation, first, last)
    ]
    title = f"{curve.axis}{', log scale' if log else ''}"
    title += f"; {marks.validation} = validation rows" if validation else ""
    lines = _draw(scaled, validation, width, height, marks)
    low, high = (_format_end(math.exp(v) if log else v) for v in _range(scaled, validation, width))
    labels = {0: high, height - 1: low}
    margin = max(len(low), len(high))
    columns = min(width, len(scaled))
    steps = f"{first:,}".ljust(max(columns - len(f"{last:,}"), len(f"{first:,}") + 1)) + f"{last:,}"
    return [
        title,
        *(f"{labels.get(n, ''):>{margin}} {marks.axis}{line}" for n, line in enumerate(lines)),
        f"{'':>{margin}} {marks.corner}{marks.line * columns}",
        f"{'step':>{margin}}  {steps}",
    ]


def _format_end(value: float) -> str:
    text = format_number(value)
    return format_rate(value) if text[0] in "<>" else text


def _inside(points: Points, first: int, last: int) -> Points:
    return [point for point in points if first <= point[0] <= last]


def _range(
    values: Sequence[float], others: Sequence[tuple[float, float]], width: int
) -> tuple[float, float]:
    drawn = [*downsample(values, width), *(value for _, value in others)]
    return min(drawn), max(drawn)


def _draw(
    values: Sequence[float],
    others: Sequence[tuple[float, float]],
    width: int,
    height: int,
    marks: PlotMarks,
) -> list[str]:
    """Draw values as lines of text; ``others`` are at positions from 0 (left) to 1 (right)."""
    points = downsample(values, width)
    low, high = _range(values, others, width)
    rows = [[" "] * len(points) for _ in range(height)]
    drawn = [(column, point, marks.point) for column, point in enumerate(points)]
    drawn += [(round(x * (len(points) - 1)), value, marks.validation) for x, value in others]
    for column, point, character in drawn:
        level = round((point - low) / (high - low) * (height - 1)) if high > low else 0
        rows[height - 1 - level][column] = character
    return ["".join(row).rstrip() for row in rows]

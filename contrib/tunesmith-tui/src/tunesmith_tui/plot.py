"""Draw curves, intervals and bands with characters; nothing depends on color alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rich.text import Text

from tunesmith.events import Measured
from tunesmith_evidence.number_text import format_number, format_rate
from tunesmith_tui.series import Series, group_by_column

POINT, SPREAD, OTHER = "•", "│", "○"


@dataclass(frozen=True)
class Curve:
    """A series with its values on validation rows, and what its axis shows."""

    title: str
    series: Series
    validation: Series | None = None
    last_step: int = 0
    """Right end of the axis, at least: the planned steps."""
    format: Callable[[float], str] = format_number


def plot(curve: Curve, width: int, height: int) -> list[Text]:
    """Draw a curve as lines of at most ``width`` characters.

    Each column shows the mean of its steps, and a vertical line for the mean's 95 % interval.

    Returns:
        The title, ``height`` lines and the axis; only the title if the values are equal, and
        nothing if there are fewer than two points.
    """
    buckets = curve.series.buckets()
    others = curve.validation.buckets() if curve.validation else []
    if len(buckets) + len(others) < 2 or curve.series.last is None:
        return []
    steps = [bucket.step for bucket in (*buckets, *others)]
    first, last = min(steps), max(*steps, curve.series.last[0], curve.last_step)
    means = [bucket.mean for bucket in (*buckets, *others)]
    margin = max(8, *(len(curve.format(mean)) for mean in (min(means), max(means))))
    columns = max(10, width - margin - 2)
    drawn = group_by_column(buckets, columns, first, last)
    marked = group_by_column(others, columns, first, last)
    ends = [b.mean + sign * b.margin for b in drawn.values() for sign in (-1, 1)]
    ends += [b.mean for b in marked.values()]
    low, high = min(ends), max(ends)
    title = Text(curve.title, "bold")
    title.append(f"  {curve.format(curve.series.last[1])} at step {curve.series.last[0]:,}", "")
    if low == high:
        return [title.append("  constant", "dim")]

    def line_of(value: float) -> int:
        return height - 1 - round((value - low) / (high - low) * (height - 1))

    rows = [[" "] * columns for _ in range(height)]
    for column, bucket in drawn.items():
        bottom, top = (line_of(bucket.mean + sign * bucket.margin) for sign in (-1, 1))
        for number in range(top, bottom + 1):
            rows[number][column] = SPREAD
        rows[line_of(bucket.mean)][column] = POINT
    for column, bucket in marked.items():
        rows[line_of(bucket.mean)][column] = OTHER
    labels = {0: curve.format(high), height - 1: curve.format(low)}
    title.append(f"  {OTHER} validation" if marked else "", "cyan")
    title.truncate(width)
    lines = [title]
    for number, row in enumerate(rows):
        line = Text(f"{labels.get(number, ''):>{margin}} {SPREAD}", "dim")
        line.append("".join(row).rstrip(), "")
        line.highlight_regex(POINT, "green")
        line.highlight_regex(OTHER, "cyan")
        lines.append(line)
    axis = f"{first:,} ".ljust(columns - len(f"{last:,}") - 1, "─")
    return [*lines, Text(f"{'step':>{margin}} └{axis} {last:,}", "dim")]


def draw_interval(
    value: float, low: float, high: float, ends: tuple[float, float], width: int
) -> str:
    """Draw a value with its interval on a scale between two ends: ``  ├──●─┤``."""
    if width < 1 or not all(map(math.isfinite, (value, low, high))):
        return ""
    span = ends[1] - ends[0] or 1.0
    start, point, stop = (
        min(width - 1, max(0, round((x - ends[0]) / span * (width - 1))))
        for x in (low, value, high)
    )
    cells = ["─" if start < n < stop else " " for n in range(width)]
    cells[start], cells[stop] = "├", "┤"
    cells[point] = "●"
    return "".join(cells).rstrip()


def find_ends(scores: Iterable[Measured]) -> tuple[float, float]:
    """Return the ends of a scale for scores with their intervals, except for infinite ones."""
    ends = [end for score in scores for end in (score.low, score.value, score.high)]
    finite = [end for end in ends if math.isfinite(end)] or [0.0]
    return min(finite), max(finite)


def draw_band(low: float, high: float, actual: float, width: int) -> str:
    """Draw an actual value on a scale from 0, and the band that was predicted: ``──░░●░──``."""
    top = max(high, actual) * 1.15 or 1.0
    start, stop, point = (
        min(width - 1, max(0, round(x / top * (width - 1)))) for x in (low, high, actual)
    )
    cells = ["░" if start <= n <= stop else "─" for n in range(width)]
    cells[point] = "●"
    return "".join(cells)


def format_axis(value: float) -> str:
    """Format an end of an axis or a rate with a few characters: "2e-4", "0.750"."""
    text = format_number(value)
    return format_rate(value) if text[0] in "<>" else text

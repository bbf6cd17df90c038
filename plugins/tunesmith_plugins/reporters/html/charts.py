"""Charts as SVG: curves over training steps, and values with their intervals.

Sizes are in units of the SVG, which the page scales to its width. Colors come from the page by
class, so that the light and the dark page share the same charts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tunesmith.text import one_line

WIDTH, HEIGHT = 640, 190
HALF_WIDTH = 360
"""Width of a curve that shares its row with another one."""
LEFT, RIGHT, TOP, BOTTOM = 62, 12, 12, 26
"""Margins of a curve; the axis labels are in the left and the bottom one."""
INTERVAL_LEFT, INTERVAL_HEIGHT = 110, 30
"""Left margin of a chart of intervals, for the names, and height of one interval."""
MAX_POINTS = 1_000
"""Most points of a curve; longer series are thinned."""


@dataclass(frozen=True)
class Scale:
    """Linear map from values to positions on an axis."""

    low: float
    high: float
    start: float
    end: float

    def position_of(self, value: float) -> float:
        """Return the position of a value."""
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def choose_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return about ``count`` round numbers in a range: 1, 2 or 5 times a power of ten."""
    span = high - low
    if not math.isfinite(span) or span <= 0:
        return [low]
    rough_step = span / count
    power = 10.0 ** math.floor(math.log10(rough_step))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough_step)
    first = math.ceil(low / step - 1e-9)
    return [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]


def format_number(value: float) -> str:
    """Format a number with three or four significant digits, very small and large ones as 2e-5."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if 1e-3 <= abs(value) < 1e5:
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


Series = tuple[Sequence[int], Sequence[float | None]]
"""Steps, and a value for each."""
NO_POINTS: Series = ((), ())
Points = Sequence[tuple[int, float]]
"""Steps and values, all of them finite."""


def draw_curve(
    steps: Sequence[int],
    values: Sequence[float | None],
    title: str,
    width: int = WIDTH,
    *,
    dev: Series = NO_POINTS,
) -> Markup:
    """Draw values over steps; missing and non-finite values are left out.

    ``dev``: the steps and values of the same quantity on dev rows, as a second line with marks.

    Returns empty markup if fewer than two values are left.
    """
    points, dev_points = _finite_points(steps, values), _finite_points(*dev)
    if len(points) < 2:
        return Markup("")
    everything = [*points, *dev_points]
    low, high = min(v for _, v in everything), max(v for _, v in everything)
    padding = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    x = Scale(min(everything)[0], max(everything)[0], LEFT, width - RIGHT)
    y = Scale(low - padding, high + padding, HEIGHT - BOTTOM, TOP)
    line = Markup('<polyline class="curve" points="{}"/>').format(_draw_path(points, x, y))
    description = f"{title}: from {format_number(points[0][1])} to {format_number(points[-1][1])}"
    if dev_points:
        description += f"; on dev rows to {format_number(dev_points[-1][1])}"
    marks = _draw_marks(dev_points, x, y)
    parts = [*_draw_grid(y, width), *_label_steps(x), line, *marks]
    return _draw_svg(width, HEIGHT, description, parts)


def _finite_points(steps: Sequence[int], values: Sequence[float | None]) -> Points:
    return [
        (step, value)
        for step, value in zip(steps, values, strict=True)
        if value is not None and math.isfinite(value)
    ]


def _draw_path(points: Points, x: Scale, y: Scale) -> str:
    return " ".join(
        f"{x.position_of(step):.1f},{y.position_of(value):.1f}"
        for step, value in thin_points(points)
    )


def _draw_marks(points: Points, x: Scale, y: Scale) -> Iterator[Markup]:
    """Draw a second line, with a mark that shows the value at each point."""
    if len(points) > 1:
        path = _draw_path(points, x, y)
        yield Markup('<polyline class="curve second" points="{}"/>').format(path)
    for step, value in points:
        yield Markup(
            '<circle class="mark" cx="{:.1f}" cy="{:.1f}" r="3"><title>{}</title></circle>'
        ).format(
            x.position_of(step), y.position_of(value), f"step {step:,}: {format_number(value)}"
        )


def thin_points(points: Points) -> list[tuple[int, float]]:
    """Return about ``MAX_POINTS`` of the points: the minimum and the maximum of each chunk."""
    if len(points) <= MAX_POINTS:
        return list(points)
    size = math.ceil(len(points) / (MAX_POINTS // 2))
    kept = []
    for begin in range(0, len(points), size):
        chunk = points[begin : begin + size]
        extremes = {min(chunk, key=lambda p: p[1]), max(chunk, key=lambda p: p[1])}
        kept += sorted(extremes)
    return kept


@dataclass(frozen=True)
class IntervalBar:
    """A named value with its interval."""

    label: str
    value: float
    low: float
    high: float
    emphasized: bool = False


def draw_intervals(bars: Sequence[IntervalBar], title: str) -> Markup:
    """Draw values with their intervals below each other on one scale."""
    bars = [bar for bar in bars if all(map(math.isfinite, (bar.value, bar.low, bar.high)))]
    if not bars:
        return Markup("")
    low, high = min(bar.low for bar in bars), max(bar.high for bar in bars)
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    padding = (high - low) * 0.04 or abs(high) * 0.1 or 1.0
    height = len(bars) * INTERVAL_HEIGHT + BOTTOM + TOP
    x = Scale(low - padding, high + padding, INTERVAL_LEFT, WIDTH - RIGHT)
    parts: list[Markup] = []
    for tick in choose_ticks(low, high):
        position = f"{x.position_of(tick):.1f}"
        parts += [
            Markup('<line class="rule" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(
                position, TOP, height - BOTTOM
            ),
            _draw_label(position, height - 8, format_number(tick), "middle"),
        ]
    for row, bar in enumerate(bars):
        parts += _draw_interval(bar, x, TOP + row * INTERVAL_HEIGHT + INTERVAL_HEIGHT / 2)
    return _draw_svg(WIDTH, height, title, parts)


def _draw_interval(bar: IntervalBar, x: Scale, y: float) -> Iterator[Markup]:
    style = "strong" if bar.emphasized else "plain"
    value, low, high = map(format_number, (bar.value, bar.low, bar.high))
    yield _draw_label(f"{INTERVAL_LEFT - 12}", y + 4, bar.label, "end")
    yield Markup(
        '<g class="bar {}"><title>{}</title><line x1="{:.1f}" x2="{:.1f}" y1="{}" y2="{}"/>'
        '<circle cx="{:.1f}" cy="{}" r="5"/></g>'
    ).format(
        style,
        f"{one_line(bar.label)}: {value} [{low}, {high}]",
        x.position_of(bar.low),
        x.position_of(bar.high),
        y,
        y,
        x.position_of(bar.value),
        y,
    )


def _draw_grid(y: Scale, width: int) -> Iterator[Markup]:
    for tick in choose_ticks(y.low, y.high, 4):
        position = f"{y.position_of(tick):.1f}"
        yield Markup('<line class="rule" x1="{1}" x2="{2}" y1="{0}" y2="{0}"/>').format(
            position, LEFT, width - RIGHT
        )
        yield _draw_label(f"{LEFT - 8}", float(position) + 4, format_number(tick), "end")


def _label_steps(x: Scale) -> Iterator[Markup]:
    yield _draw_label(f"{LEFT - 8}", HEIGHT - 8, "step", "end")
    steps = dict.fromkeys(round(tick) for tick in choose_ticks(x.low, x.high, 6))
    for step in (step for step in steps if x.low <= step <= x.high):
        yield _draw_label(f"{x.position_of(step):.1f}", HEIGHT - 8, f"{step:,}", "middle")


def _draw_label(x: str, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text x="{}" y="{:.1f}" text-anchor="{}">{}</text>').format(
        x, y, anchor, one_line(text)
    )


def _draw_svg(width: int, height: int, title: str, parts: Sequence[Markup]) -> Markup:
    size = "full" if width == WIDTH else "half"
    return Markup('<svg class="{}" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        size, width, height, one_line(title), Markup("").join(parts)
    )

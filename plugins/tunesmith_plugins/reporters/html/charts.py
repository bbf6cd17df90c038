"""Charts as SVG text: curves over steps, and values with their intervals.

Sizes are in the SVG's own units; the page scales them to its width. Colours are the page's, by
class, so that light and dark pages share one picture.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tunesmith.text import one_line

WIDTH, HEIGHT = 640, 190
SMALL = 360
"""Width of a curve that shares its line with another."""
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 12, 26
MOST_POINTS = 1_000
"""A curve of more points is thinned to the lowest and highest of each stretch."""


@dataclass(frozen=True)
class Scale:
    """Maps values to places on a line."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """The place of a value."""
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers within a range: multiples of 1, 2 or 5 times a power of ten."""
    span = high - low
    if not math.isfinite(span) or span <= 0:
        return [low]
    rough = span / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first = math.ceil(low / step - 1e-9)
    return [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]


def number(value: float) -> str:
    """A number as short as it can be without losing what matters."""
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e5:
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return f"{value:.3g}"


def curve(
    steps: Sequence[int], values: Sequence[float | None], title: str, width: int = WIDTH
) -> Markup:
    """Values over steps; those that are missing or not finite are left out."""
    points = [
        (step, value)
        for step, value in zip(steps, values, strict=True)
        if value is not None and math.isfinite(value)
    ]
    if len(points) < 2:
        return Markup("")
    low, high = min(v for _, v in points), max(v for _, v in points)
    pad = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    x = Scale(points[0][0], points[-1][0], LEFT, width - RIGHT)
    y = Scale(low - pad, high + pad, HEIGHT - BOTTOM, TOP)
    path = " ".join(f"{x.at(step):.1f},{y.at(value):.1f}" for step, value in thinned(points))
    marks = [*_rules(y, width), *_steps(x)]
    line = Markup('<polyline class="curve" points="{}"/>').format(path)
    what = f"{title}: from {number(points[0][1])} to {number(points[-1][1])}"
    return _svg(width, HEIGHT, what, [*marks, line])


def thinned(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """At most so many points, with the extremes of every stretch among them."""
    if len(points) <= MOST_POINTS:
        return list(points)
    size = math.ceil(len(points) / (MOST_POINTS // 2))
    kept = []
    for begin in range(0, len(points), size):
        stretch = points[begin : begin + size]
        ends = {min(stretch, key=lambda p: p[1]), max(stretch, key=lambda p: p[1])}
        kept += sorted(ends)
    return kept


@dataclass(frozen=True)
class Bar:
    """A value with its interval, and what it is the value of."""

    label: str
    value: float
    low: float
    high: float
    emphasis: bool = False


def intervals(bars: Sequence[Bar], title: str) -> Markup:
    """Values with their 95 % intervals, one below the other on one scale."""
    bars = [bar for bar in bars if all(map(math.isfinite, (bar.value, bar.low, bar.high)))]
    if not bars:
        return Markup("")
    low, high = min(bar.low for bar in bars), max(bar.high for bar in bars)
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    pad = (high - low) * 0.04 or abs(high) * 0.1 or 1.0
    line, left = 30, 110
    height = len(bars) * line + BOTTOM + TOP
    x = Scale(low - pad, high + pad, left, WIDTH - RIGHT)
    parts: list[Markup] = []
    for tick in ticks(low, high):
        place = f"{x.at(tick):.1f}"
        parts += [
            Markup('<line class="rule" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(
                place, TOP, height - BOTTOM
            ),
            _label(place, height - 8, number(tick), "middle"),
        ]
    for row, bar in enumerate(bars):
        parts += _bar(bar, x, TOP + row * line + line / 2, left)
    return _svg(WIDTH, height, title, parts)


def _bar(bar: Bar, x: Scale, y: float, left: float) -> Iterator[Markup]:
    kind = "strong" if bar.emphasis else "plain"
    told = f"{one_line(bar.label)}: {number(bar.value)} [{number(bar.low)}, {number(bar.high)}]"
    yield _label(f"{left - 12}", y + 4, bar.label, "end")
    yield Markup(
        '<g class="bar {}"><title>{}</title><line x1="{:.1f}" x2="{:.1f}" y1="{}" y2="{}"/>'
        '<circle cx="{:.1f}" cy="{}" r="5"/></g>'
    ).format(kind, told, x.at(bar.low), x.at(bar.high), y, y, x.at(bar.value), y)


def _rules(y: Scale, width: int) -> Iterator[Markup]:
    for tick in ticks(y.low, y.high, 4):
        place = f"{y.at(tick):.1f}"
        yield Markup('<line class="rule" x1="{1}" x2="{2}" y1="{0}" y2="{0}"/>').format(
            place, LEFT, width - RIGHT
        )
        yield _label(f"{LEFT - 8}", float(place) + 4, number(tick), "end")


def _steps(x: Scale) -> Iterator[Markup]:
    whole = dict.fromkeys(round(tick) for tick in ticks(x.low, x.high, 6))
    for tick in (step for step in whole if x.low <= step <= x.high):
        yield _label(f"{x.at(tick):.1f}", HEIGHT - 8, f"{tick:,}", "middle")


def _label(x: str, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text x="{}" y="{:.1f}" text-anchor="{}">{}</text>').format(
        x, y, anchor, one_line(text)
    )


def _svg(width: int, height: int, title: str, parts: Sequence[Markup]) -> Markup:
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        width, height, one_line(title), Markup("").join(parts)
    )

"""Draw charts as SVG, with text that keeps its size at any width.

Horizontal positions are percentages, so a chart fills the width of the page on any screen, without
scripts. Lines are drawn in an inner SVG, which is stretched. The page's style sheet sets the colors
by class, so the same chart works in light mode, in dark mode and in print.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tunesmith.events import TUNED, Measured
from tunesmith.text import one_line, redact
from tunesmith_evidence.number_text import format_interval, format_number, format_rate, format_ticks
from tunesmith_evidence.report.confidence import ConfidentRows
from tunesmith_evidence.report.curves import Curve, Points, thin_points

__all__ = [
    "MAX_OVERLAID",
    "IntervalBar",
    "draw_curve",
    "draw_intervals",
    "draw_overlay",
    "draw_reliability",
]

MAX_OVERLAID = 8
"""Maximum number of curves in one plot, because more colors look alike."""
OVERLAID_POINTS = 160
"""Maximum number of points of each overlaid curve."""

TOP, BOTTOM = 24, 40
"""Margins of a curve in pixels: the upper one for the axis title, the lower one for the steps."""
ROW_HEIGHT = 40
"""Height of one value and its interval in pixels: a line of text, and the bar below it."""
INNER_WIDTH = 1000
"""Width of the inner SVG, in its own units."""


@dataclass(frozen=True)
class Scale:
    """Maps values to positions on a linear axis, or on a logarithmic one with ``log``."""

    low: float
    """Value at the start of the axis."""
    high: float
    """Value at the end of the axis."""
    start: float
    """Position of the start, in drawing units."""
    end: float
    """Position of the end, in drawing units."""
    log: bool = False

    def position_of(self, value: float) -> float:
        """Return the position of a value between the two ends of the axis."""
        low, high = self.low, self.high
        if self.log:
            value, low, high = math.log10(value), math.log10(low), math.log10(high)
        return self.start + (value - low) / (high - low) * (self.end - self.start)


def choose_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return about ``count`` round numbers in a range, with steps of 1, 2 or 5 x 10^k."""
    span = high - low
    if not math.isfinite(span) or span <= 0:
        return [low]
    rough_step = span / count
    power = 10.0 ** math.floor(math.log10(rough_step))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough_step)
    first = math.ceil(low / step - 1e-9)
    return [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]


def choose_log_ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Return up to ``count`` powers of ten in a range, with 2 and 5 times them if they are few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if len(powers) <= 3 else (1,)
    ticks = [factor * 10.0**power for power in powers for factor in factors]
    ticks = [tick for tick in ticks if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
    return ticks[:: math.ceil(len(ticks) / count)] if ticks else [low]


def draw_curve(
    curve: Curve, *, height: int = 220, log: bool = False, most_points: int = 500
) -> Markup:
    """Draw a curve over the training steps, with its smoothed version and its validation values.

    A short curve is not smoothed. A logarithmic scale skips values of 0 or below.

    Returns:
        An SVG, or an empty string if fewer than two values remain.
    """
    points, validation = _positive(curve.points, log), _positive(curve.validation, log)
    if len(points) < 2:
        return Markup("")
    everything = [*points, *validation]
    bottom = height - BOTTOM
    x = Scale(min(everything)[0], max(everything)[0], 0, 100)
    y = _scale_values([value for _, value in everything], bottom, log=log)
    smoothed = _positive(curve.smoothed, log)
    lines = [
        _draw_line(thin_points(points, most_points), x, y, "raw" if smoothed else "line"),
        _draw_line(thin_points(smoothed, most_points), x, y, "line"),
        _draw_line(validation, x, y, "validation"),
    ]
    axis = f"{curve.axis}, log scale" if log else curve.axis
    description = (
        f"{axis} over steps: from {format_number(points[0][1])} to {format_number(points[-1][1])}"
    )
    if validation:
        description += f"; last validation value {format_number(validation[-1][1])}"
    parts = [*_draw_plot(lines, x, y, axis, log=log), *_draw_marks(validation, x, y)]
    return _draw_svg("curve", height, description, parts)


def draw_overlay(curves: Mapping[str, Curve], *, height: int = 280) -> Markup:
    """Draw the curves of several runs or stages on the same axes, each in a different color.

    A short curve is not smoothed. Only the first :data:`MAX_OVERLAID` curves are drawn. The style
    sheet's classes ``c0``, ``c1`` and so on define their colors.

    Returns:
        An SVG, or an empty string if there is no curve.
    """
    shown = [*curves.items()][:MAX_OVERLAID]
    everything = [p for _, c in shown for p in (*(c.smoothed or c.points), *c.validation)]
    if not everything:
        return Markup("")
    x = Scale(min(everything)[0], max(max(everything)[0], min(everything)[0] + 1), 0, 100)
    y = _scale_values([value for _, value in everything], height - BOTTOM, log=False)
    lines = [
        _draw_line(thin_points(points, OVERLAID_POINTS), x, y, f"{kind} c{number}", label)
        for number, (label, curve) in enumerate(shown)
        for kind, points in (("own", curve.smoothed or curve.points), ("dashed", curve.validation))
    ]
    axis = shown[0][1].axis
    parts = [*_draw_plot(lines, x, y, axis, log=False)]
    return _draw_svg("curve", height, f"{axis} of {', '.join(curves)}", parts)


def draw_reliability(groups: Sequence[ConfidentRows], *, height: int = 280) -> Markup:
    """Draw the share of right answers by confidence, with 95 % intervals.

    If the confidences are calibrated, the points lie on the diagonal.
    """
    x, y = Scale(0, 100, 0, 100), Scale(0, 100, height - BOTTOM, TOP)
    diagonal = _draw_line([(0, 0), (100, 100)], x, y, "raw")
    parts = [*_draw_plot([diagonal], x, y, "right answers (%)", log=False, base="confidence (%)")]
    for group in groups:
        place, right = 100 * group.confidence, group.right
        value, low, high = (y.position_of(100 * v) for v in (right.value, right.low, right.high))
        parts.append(
            Markup(
                '<g class="bar strong"><title>{0} rows</title><line x1="{1:.2f}%" x2="{1:.2f}%" '
                'y1="{2:.1f}" y2="{3:.1f}"/><circle cx="{1:.2f}%" cy="{4:.1f}" r="5"/></g>'
            ).format(right.n, place, low, high, value)
        )
    return _draw_svg("curve", height, "right answers by confidence", parts)


def _draw_plot(
    lines: Sequence[Markup], x: Scale, y: Scale, axis: str, *, log: bool, base: str = "step"
) -> Iterator[Markup]:
    """Draw lines with the axes of a plot; ``y`` starts at its lower edge."""
    yield _draw_text("0", 12, axis, dx=-52)
    yield from _draw_value_ticks(y, log=log)
    yield from _draw_steps(x, round(y.start) + BOTTOM, base)
    yield Markup(
        '<svg x="0" y="0" width="100%" height="{0:.0f}" viewBox="0 0 {1} {0:.0f}" '
        'preserveAspectRatio="none" overflow="visible">{2}</svg>'
    ).format(y.start, INNER_WIDTH, Markup("").join(lines))


def _positive(points: Points, log: bool) -> Points:
    return [point for point in points if point[1] > 0] if log else points


def _scale_values(values: Sequence[float], bottom: float, *, log: bool) -> Scale:
    low, high = min(values), max(values)
    if log:
        factor = 1.15 if high > low else 2.0
        return Scale(low / factor, high * factor, bottom, TOP, log=True)
    padding = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    # The margin must not extend an axis of non-negative values below 0.
    return Scale(
        max(low - padding, 0.0) if low >= 0 else low - padding, high + padding, bottom, TOP
    )


def _draw_line(points: Points, x: Scale, y: Scale, kind: str, label: str = "") -> Markup:
    if len(points) < 2:
        return Markup("")
    path = " ".join(
        f"{x.position_of(step) * INNER_WIDTH / 100:.0f},{y.position_of(value):.1f}"
        for step, value in points
    )
    title = Markup("<title>{}</title>").format(one_line(redact(label))) if label else ""
    return Markup('<polyline class="{}" points="{}">{}</polyline>').format(kind, path, title)


def _draw_marks(points: Points, x: Scale, y: Scale) -> Iterator[Markup]:
    for step, value in points:
        yield Markup(
            '<circle class="mark" cx="{:.2f}%" cy="{:.1f}" r="3.5"><title>{}</title></circle>'
        ).format(
            x.position_of(step),
            y.position_of(value),
            f"step {step:,}, validation rows: {format_number(value)}",
        )


def _draw_value_ticks(y: Scale, *, log: bool) -> Iterator[Markup]:
    ticks = choose_log_ticks(y.low, y.high) if log else choose_ticks(y.low, y.high, 4)
    texts = map(format_rate, ticks) if log else format_ticks(ticks)
    for tick, text in zip(ticks, texts, strict=True):
        position = f"{y.position_of(tick):.1f}"
        yield Markup('<line class="rule" x1="0" x2="100%" y1="{0}" y2="{0}"/>').format(position)
        yield _draw_text("0", float(position) + 4, text, anchor="end", dx=-8)


def _draw_steps(x: Scale, height: int, axis: str) -> Iterator[Markup]:
    steps = dict.fromkeys(round(tick) for tick in choose_ticks(x.low, x.high, 5))
    for step in (step for step in steps if x.low <= step <= x.high):
        yield _draw_text(f"{x.position_of(step):.2f}%", height - 22, f"{step:,}", anchor="middle")
    yield _draw_text("50%", height - 4, axis, anchor="middle")


@dataclass(frozen=True)
class IntervalBar:
    """A labeled value with its confidence interval."""

    label: str
    value: float
    """The value, in the unit of the axis."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""
    emphasized: bool = False

    @classmethod
    def of(cls, event: Measured) -> IntervalBar:
        """Return the bar of a measurement. The tuned model's bar is emphasized."""
        return cls(event.model, event.value, event.low, event.high, event.model == TUNED)


def draw_intervals(bars: Sequence[IntervalBar], title: str) -> Markup:
    """Draw values with their intervals in rows, on a common scale.

    The interval of the emphasized value is shaded across all rows.
    """
    bars = [bar for bar in bars if all(map(math.isfinite, (bar.value, bar.low, bar.high)))]
    if not bars:
        return Markup("")
    low, high = min(bar.low for bar in bars), max(bar.high for bar in bars)
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    padding = 0 if (low, high) == (0, 1) else (high - low) * 0.04 or abs(high) * 0.1 or 1.0
    height = len(bars) * ROW_HEIGHT + BOTTOM
    x = Scale(low - padding, high + padding, 0, 100)
    parts: list[Markup] = []
    for bar in (bar for bar in bars if bar.emphasized):
        start, end = x.position_of(bar.low), x.position_of(bar.high)
        parts.append(
            Markup('<rect class="band" x="{:.2f}%" width="{:.2f}%" y="0" height="{}"/>').format(
                start, max(end - start, 0.2), height - BOTTOM
            )
        )
    ticks = choose_ticks(x.low, x.high)
    for tick, text in zip(ticks, format_ticks(ticks), strict=True):
        position = x.position_of(tick)
        anchor = "start" if position < 2 else "end" if position > 98 else "middle"
        parts += [
            Markup('<line class="rule" x1="{0:.2f}%" x2="{0:.2f}%" y1="0" y2="{1}"/>').format(
                position, height - BOTTOM
            ),
            _draw_text(f"{position:.2f}%", height - 22, text, anchor=anchor),
        ]
    parts.append(_draw_text("50%", height - 4, title, anchor="middle"))
    for row, bar in enumerate(bars):
        parts += _draw_interval(bar, x, row * ROW_HEIGHT)
    return _draw_svg("intervals", height, title, parts)


def _draw_interval(bar: IntervalBar, x: Scale, top: float) -> Iterator[Markup]:
    style = "strong" if bar.emphasized else "plain"
    label, y = one_line(redact(bar.label), 36), top + 28
    value = f"{format_number(bar.value)} {format_interval(bar.low, bar.high)}"
    yield Markup('<g class="bar {}"><title>{}</title>').format(style, f"{label}: {value}")
    yield _draw_text("0", top + 15, label, kind="name")
    yield _draw_text("100%", top + 15, value, anchor="end", kind="value")
    yield Markup(
        '<line x1="{:.2f}%" x2="{:.2f}%" y1="{}" y2="{}"/><circle cx="{:.2f}%" cy="{}" r="5"/></g>'
    ).format(x.position_of(bar.low), x.position_of(bar.high), y, y, x.position_of(bar.value), y)


def _draw_text(
    x: str, y: float, text: str, *, anchor: str = "start", dx: float = 0, kind: str = ""
) -> Markup:
    shift = Markup(' dx="{:g}"').format(dx) if dx else Markup("")
    style = Markup(' class="{}"').format(kind) if kind else Markup("")
    return Markup('<text x="{}" y="{:.1f}" text-anchor="{}"{}{}>{}</text>').format(
        x, y, anchor, shift, style, one_line(redact(text), 120)
    )


def _draw_svg(kind: str, height: int, title: str, parts: Sequence[Markup]) -> Markup:
    return Markup(
        '<svg class="{}" width="100%" height="{}" role="img" aria-label="{}" '
        'overflow="visible">{}</svg>'
    ).format(kind, height, one_line(redact(title), 200), Markup("").join(parts))

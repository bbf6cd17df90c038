"""Build curves over the training steps, with their values on validation rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tunesmith.execution.report import Report
from tunesmith_evidence.fit.course import VALIDATION_LOSS

__all__ = ["Curve", "build_loss_curve", "build_other_curves", "build_stage_curves", "downsample"]

Points = Sequence[tuple[int, float]]
"""Pairs of a step and its value, all finite."""
MIN_POINTS_TO_SMOOTH = 12
SMOOTHING_WINDOW_SHARE = 1 / 20
"""Width of the smoothing window, as a share of the steps."""


@dataclass(frozen=True)
class Curve:
    """A quantity over the steps of a training stage."""

    title: str
    unit: str
    points: Points
    validation: Points = ()
    """The quantity on validation rows, which is measured only for the loss."""

    @property
    def smoothed(self) -> Points:
        """The moving average of the points, or no points if there are too few steps."""
        return smooth(self.points)

    @property
    def axis(self) -> str:
        """Label of the value axis: the title, with its unit in parentheses."""
        return f"{self.title} ({self.unit})" if self.unit else self.title


def build_loss_curve(report: Report, stage: str) -> Curve:
    """Return the training loss of a stage with its validation loss."""
    steps, monitored = report.steps_of(stage), report.monitored_of(stage)
    validation = [
        (e.step, e.metrics[VALIDATION_LOSS]) for e in monitored if VALIDATION_LOSS in e.metrics
    ]
    # The losses of RLHF and preference tuning are not means over tokens.
    unit = "nats per token" if all(not step.metrics for step in steps) else ""
    return Curve(
        "loss", unit, keep_finite((s.step, s.loss) for s in steps), keep_finite(iter(validation))
    )


def build_stage_curves(report: Report) -> dict[str, Curve]:
    """Return the loss of each stage scaled to its own range, or no curves for a single stage.

    Each stage has a different kind of loss, so only the shapes of the curves can be compared.
    """
    scaled = {}
    for stage in report.training_started if len(report.training_started) > 1 else ():
        curve = build_loss_curve(report, stage)
        points = curve.smoothed or curve.points
        low = min((value for _, value in points), default=0.0)
        span = max((value for _, value in points), default=0.0) - low or 1.0
        course = [(step, (value - low) / span) for step, value in points]
        scaled[stage] = Curve("loss, from the lowest (0) to the highest (1)", "", course)
    return scaled


def build_other_curves(report: Report, stage: str) -> list[Curve]:
    """Return a stage's curves other than the loss, such as the learning rate and the memory."""
    steps, monitored = report.steps_of(stage), report.monitored_of(stage)
    curves = [
        Curve("learning rate", "", keep_finite((s.step, s.learning_rate) for s in steps)),
        Curve(
            "gradient norm",
            "before clipping",
            keep_finite((s.step, s.gradient_norm) for s in steps),
        ),
        Curve(
            "speed",
            "tokens per second",
            keep_finite((s.step, s.tokens / s.seconds) for s in steps if s.seconds),
        ),
        Curve("memory", "GiB", [(s.step, s.memory_bytes / 2**30) for s in steps if s.memory_bytes]),
    ]
    for name in dict.fromkeys(name for step in steps for name in step.metrics):
        points = keep_finite((s.step, s.metrics[name]) for s in steps if name in s.metrics)
        curves.append(Curve(name.replace("_", " "), "", points))
    for name in dict.fromkeys(name for event in monitored for name in event.metrics):
        if name != VALIDATION_LOSS:
            points = keep_finite((e.step, e.metrics[name]) for e in monitored if name in e.metrics)
            curves.append(Curve(name.replace("_", " "), "during training", points))
    return [curve for curve in curves if len(curve.points) > 1]


def keep_finite(points: Iterator[tuple[int, float]]) -> list[tuple[int, float]]:
    """Return the points whose value is finite."""
    return [(step, value) for step, value in points if math.isfinite(value)]


def smooth(points: Points) -> Points:
    """Return the centered moving average, whose window narrows at both ends."""
    if len(points) < MIN_POINTS_TO_SMOOTH:
        return ()
    half = max(2, round(len(points) * SMOOTHING_WINDOW_SHARE / 2))
    smoothed = []
    for place, (step, _) in enumerate(points):
        reach = min(half, place, len(points) - 1 - place)
        window = [value for _, value in points[place - reach : place + reach + 1]]
        smoothed.append((step, math.fsum(window) / len(window)))
    return smoothed


def thin_points(points: Points, limit: int) -> list[tuple[int, float]]:
    """Reduce a curve to about ``limit`` points: the minimum and maximum of each section."""
    if len(points) <= limit:
        return list(points)
    size = math.ceil(len(points) / (limit // 2))
    kept = []
    for begin in range(0, len(points), size):
        chunk = points[begin : begin + size]
        extremes = {min(chunk, key=lambda p: p[1]), max(chunk, key=lambda p: p[1])}
        kept += sorted(extremes)
    return kept


def downsample(values: Sequence[float], width: int) -> list[float]:
    """Reduce values to at most ``width`` values: the means of equally long sections."""
    if len(values) <= width:
        return list(values)
    edges = [round(n * len(values) / width) for n in range(width + 1)]
    return [math.fsum(values[start:end]) / (end - start) for start, end in pairwise(edges)]

"""How events are put into words; both forms of display say the same."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from tunesmith.events import (
    DataRead,
    Forecast,
    Gated,
    Measured,
    Noticed,
    Sampled,
    Stepped,
    Trained,
    TrainingStarted,
    Watched,
)
from tunesmith.text import bytes_text, count_text, duration_text, one_line

RECENT = 40
"""Steps that the loss curve shows."""
SMOOTHING = 0.9
"""How much of the smoothed loss stays at each step."""
PACE = 0.95
"""How much of the pace stays at each step: slow enough for a steady time left."""
LABELS = {"info": "note", "warning": "warning", "error": "error"}


@dataclass
class Training:
    """What the steps so far come to: smoothed loss, pace, time left."""

    recent: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    last: Stepped | None = None
    first_loss: float = math.nan
    _loss: float = 0.0
    _loss_weight: float = 0.0
    _seconds: float = 0.0
    _tokens: float = 0.0
    _pace_weight: float = 0.0

    def take(self, step: Stepped) -> None:
        """Take one step into account."""
        self.last = step
        self.recent.append(step.loss)
        if math.isnan(self.first_loss):
            self.first_loss = step.loss
        if math.isfinite(step.loss):
            self._loss = SMOOTHING * self._loss + (1 - SMOOTHING) * step.loss
            self._loss_weight = SMOOTHING * self._loss_weight + (1 - SMOOTHING)
        self._seconds = PACE * self._seconds + (1 - PACE) * max(0.0, step.seconds)
        self._tokens = PACE * self._tokens + (1 - PACE) * step.tokens
        self._pace_weight = PACE * self._pace_weight + (1 - PACE)

    @property
    def loss(self) -> float:
        """The loss, smoothed; early steps are not pulled towards zero."""
        return self._loss / self._loss_weight if self._loss_weight else math.nan

    @property
    def tokens_per_second(self) -> float:
        return self._tokens / self._seconds if self._seconds else 0.0

    @property
    def seconds_left(self) -> float:
        """Steps to go at the recent pace."""
        if self.last is None or not self._pace_weight:
            return math.nan
        return (self.last.steps - self.last.step) * self._seconds / self._pace_weight


def seconds_left(done: int, total: int | None, elapsed: float) -> float:
    """Time to go, if what is left goes like what is done; NaN where that says nothing."""
    if not total or done <= 0 or elapsed < 1:
        return math.nan
    return max(0, total - done) * elapsed / done


def left_text(seconds: float) -> str:
    """A time left, coarser the longer it is, so that it does not flicker; empty if unknown."""
    if not math.isfinite(seconds):
        return ""
    grain = 1 if seconds < 60 else 5 if seconds < 600 else 60
    return f"{duration_text(max(grain, round(seconds / grain) * grain))} left"


def forecast_text(event: Forecast) -> str:
    """What is expected, with its ranges."""
    sizes = (event.memory[name] for name in ("low", "expected", "high"))
    low, expected, high = (bytes_text(size, binary=True) for size in sizes)
    parts = [f"about {expected} of memory ({low} to {high})"]
    if event.seconds:
        shortest, longest = (duration_text(seconds) for seconds in event.seconds)
        parts.append(f"training in {shortest} to {longest}")
    return f"expected: {', '.join(parts)}"


def data_text(event: DataRead) -> str:
    """How many rows there are."""
    unusable = sum(event.left_out.values())
    left_out = f", {count_text(unusable, 'row')} left out" if unusable else ""
    return f"{event.train:,} to learn from, {event.heldout:,} held out{left_out}"


def training_text(event: TrainingStarted) -> str:
    """What is about to be trained."""
    share = f"{event.trainable_parameters:,} of {event.parameters:,} parameters"
    resumed = f", from step {event.first_step}" if event.first_step else ""
    return f"{event.technique} on {event.device} in {event.precision}, {share}{resumed}"


def figures(training: Training) -> list[str]:
    """Speed and memory of the last step, and what only this technique measures."""
    step = training.last
    if step is None:
        return []
    extras = [f"{one_line(name, 24)} {value:.3g}" for name, value in list(step.extras.items())[:3]]
    speed = f"{training.tokens_per_second:,.0f} tokens/s" if training.tokens_per_second else ""
    memory = bytes_text(step.memory_bytes, binary=True) if step.memory_bytes > 0 else ""
    return [text for text in (*extras, speed, memory) if text]


def trained_text(event: Trained, training: Training) -> str:
    """What training did to the loss."""
    loss = f"loss {training.first_loss:.3f} -> {training.loss:.3f}"
    return ", ".join([count_text(event.steps, "step"), *([loss] if training.last else [])])


def measured_text(event: Measured) -> str:
    """A figure with its interval."""
    return f"{one_line(event.metric, 40)} {event.value:.3f} [{event.low:.3f}, {event.high:.3f}]"


def noticed_text(event: Noticed) -> str:
    """``warning: where: what``."""
    source = f"{one_line(event.source)}: " if event.source else ""
    return f"{LABELS.get(event.level, 'note')}: {source}{one_line(event.message, 500)}"


def watched_text(event: Watched) -> str:
    """What a look in the middle of training showed."""
    figures = [f"{one_line(name, 24)} {value:.3g}" for name, value in event.figures.items()]
    return "  ".join([f"step {event.step}", *figures, *(["best so far"] if event.best else [])])


def sampled_text(event: Sampled) -> str:
    """Question and answer, on one line."""
    said = f"{one_line(event.prompt, 60)} -> {one_line(event.answer, 100)}"
    return f"step {event.step}, reward {event.reward:.3g}: {said}"


def gated_text(event: Gated) -> str:
    """What a gate said."""
    said = "passed" if event.passed else "not passed, accepted" if event.accepted else "not passed"
    return f"{one_line(event.gate, 40)}: {said}; {one_line(event.sentence, 500)}"

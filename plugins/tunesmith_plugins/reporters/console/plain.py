"""Plain progress lines for log files, pipes and simple terminals."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TextIO

from tunesmith.events import (
    BaselineChosen,
    CheckpointSaved,
    CompletionSampled,
    DataLoaded,
    Event,
    FindingReported,
    Forecast,
    GateChecked,
    Measured,
    Monitored,
    PhaseAdvanced,
    PhaseEnded,
    PhaseStarted,
    RunFinished,
    RunStarted,
    StepFinished,
    TrainingFinished,
    TrainingStarted,
)
from tunesmith.text import format_duration, redact, safe_text
from tunesmith_evidence.number_text import format_number, format_rate
from tunesmith_plugins.reporters.console import event_text
from tunesmith_plugins.reporters.console.event_text import TRAINING
from tunesmith_plugins.reporters.console.progress import (
    PhaseProgress,
    TrainingProgress,
    restore_progress,
)

DEFAULT_STEP_LINES = 20
"""Approximate number of step lines per training run if the options set no interval."""
MIN_PHASE_SECONDS = 1.0
"""Phases that take fewer seconds print no line when they end."""
PROGRESS_INTERVAL = 30.0
"""Seconds between two progress lines of a long phase."""


class PlainReporter:
    """Prints a line for each event worth logging; progress lines are rate-limited."""

    def __init__(
        self, stream: TextIO, log: Path, *, every: int | None, warnings_only: bool
    ) -> None:
        self._stream = stream
        self._log = log
        self._every = every
        self._warnings_only = warnings_only
        self._trains = True
        self._training = TrainingProgress()
        self._phase = PhaseStarted(phase="")
        self._progress = PhaseProgress(None, time.monotonic())
        self._last_line = time.monotonic()

    def __enter__(self) -> PlainReporter:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def report(self, event: Event) -> None:
        """Print the line of an event, if it has one."""
        if isinstance(event, FindingReported):
            line = "" if event_text.ends_run(event) else event_text.format_finding(event)
        else:
            line = "" if self._warnings_only else self._line(event) or self._training_line(event)
        if line:
            print(redact(safe_text(line)), file=self._stream, flush=True)

    def _line(self, event: Event) -> str:
        match event:
            case RunStarted():
                self._trains = event.trains
                return f"{'resuming' if event.resumed else 'starting'} {event.run}"
            case PhaseStarted():
                self._phase = event
                self._last_line = time.monotonic()
                self._progress = PhaseProgress(event.total, self._last_line)
            case PhaseAdvanced():
                return self._progress_line(event)
            case PhaseEnded() if event.seconds >= MIN_PHASE_SECONDS:
                return f"{event.phase}: done in {format_duration(event.seconds)}"
            case DataLoaded():
                return f"data: {event_text.format_data(event)}"
            case Forecast():
                return event_text.format_forecast(event)
            case BaselineChosen():
                return event_text.format_choice(event)
            case Measured():
                return f"{event.model}: {event_text.format_measurement(event)}"
            case RunFinished():
                return event_text.format_run_end(event, trains=self._trains)
            case _:
                pass
        return ""

    def _training_line(self, event: Event) -> str:
        match event:
            case TrainingStarted():
                self._training = restore_progress(self._log, event)
                return event_text.format_training_start(event)
            case StepFinished():
                self._training.add(event)
                return self._step_line(event)
            case CheckpointSaved():
                self._training.add_overhead(event.seconds)
                return f"checkpoint saved: step {event.step}"
            case TrainingFinished():
                text = event_text.format_training_end(event, self._training)
                self._training = TrainingProgress()
                label = event_text.format_label(TRAINING, event.stage)
                return f"{label} finished: {text} in {format_duration(event.seconds)}"
            case Monitored():
                return event_text.format_monitor(event)
            case CompletionSampled():
                return event_text.format_sample(event)
            case GateChecked():
                return event_text.format_gate(event)
            case _:
                return ""

    def _progress_line(self, event: PhaseAdvanced) -> str:
        """Return a progress line, or an empty string within 30 s of the last one."""
        if event.phase != self._phase.phase:
            return ""
        now, total = time.monotonic(), self._phase.total
        self._progress.advance(event.done, now)
        if now - self._last_line < PROGRESS_INTERVAL:
            return ""
        self._last_line = now
        seconds = self._progress.seconds_left(now)
        count = f"{event.done:,} of {total:,}" if total else f"{event.done:,}"
        time_left = event_text.format_time_left(seconds)
        return ", ".join(filter(None, [f"{event.phase}: {count}", time_left]))

    def _step_line(self, step: StepFinished) -> str:
        every = self._every or max(1, step.steps // DEFAULT_STEP_LINES)
        if step.step % every and step.step not in (1, step.steps):
            return ""
        is_last = step.step >= step.steps
        parts = [
            f"step {step.step}/{step.steps}",
            f"loss {format_number(step.loss)}",
            f"lr {format_rate(step.learning_rate)}",
            *event_text.format_step_metrics(self._training),
            "" if is_last else event_text.format_time_left(self._training.seconds_left),
        ]
        return "  ".join(filter(None, parts))

"""Print plain progress lines for log files, pipes and simple terminals."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
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
from tunesmith_plugins.reporters.console.event_text import MIN_PHASE_SECONDS, TRAINING
from tunesmith_plugins.reporters.console.progress import (
    PhaseProgress,
    RunProgress,
    TrainingProgress,
    restore_progress,
)

DEFAULT_STEP_LINES = 20
"""Approximate number of step lines per training stage if the options set no interval."""
HEARTBEAT_SECONDS = 10.0
"""Longest time without a line while a run is running."""


class PlainReporter:
    """Prints a line for each event worth logging, and a heartbeat during long silences."""

    def __init__(
        self,
        stream: TextIO,
        log: Path,
        *,
        every: int | None,
        warnings_only: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream
        self._log = log
        self._every = every
        self._warnings_only = warnings_only
        self._clock = clock
        now = clock()
        self._run = RunProgress(now)
        self._training: TrainingProgress | None = None
        self._phase: PhaseStarted | None = None
        self._progress = PhaseProgress(None, now)
        self._last_line = now
        self._is_running = False
        self._lock = threading.RLock()  # a signal handler may report while a line is printed
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._beat_until_closed, daemon=True)

    def __enter__(self) -> PlainReporter:
        if not self._warnings_only:
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()

    def report(self, event: Event) -> None:
        """Print the line of the event, if it has one."""
        with self._lock:
            self._run.add(event, self._clock())
            if isinstance(event, RunStarted) and event.resumed:
                self._run.restore(self._log, self._clock())
            if isinstance(event, FindingReported):
                line = "" if event_text.ends_run(event) else event_text.format_finding(event)
            else:
                line = (
                    "" if self._warnings_only else self._line(event) or self._training_line(event)
                )
            self._print(line)

    def _print(self, line: str) -> None:
        if line:
            self._last_line = self._clock()
            print(redact(safe_text(line)), file=self._stream, flush=True)

    # ------------------------------------------------------------------- heartbeat

    def _beat_until_closed(self) -> None:
        while not self._closed.wait(self.beat()):
            pass

    def beat(self) -> float:
        """Print what is running after a long silence; return the seconds until the next check."""
        with self._lock:
            now = self._clock()
            left = self._last_line + HEARTBEAT_SECONDS - now
            if left > 0:
                return left
            if self._is_running:
                self._print(self._heartbeat(now))
            return HEARTBEAT_SECONDS

    def _heartbeat(self, now: float) -> str:
        """Return what is running as text, with its progress, its duration and the time left."""
        elapsed = event_text.format_clock(now - self._progress.started)
        left = self._progress.seconds_left(now)
        if self._phase is None and self._training is not None:
            step, name = self._training.last, TRAINING
            count = f"step {step.step}/{step.steps}" if step else "first step"
            left = self._training.seconds_left
        else:
            name = self._phase.phase if self._phase else self._run.part or "report"
            total = self._phase.total if self._phase else None
            count = f"{self._progress.done:,} of {total:,}" if total else "still running"
        parts = [f"{name}: {count}", elapsed, event_text.format_time_left(left)]
        run = event_text.format_run_left(*self._run.seconds_left(now, left))
        return "; ".join(filter(None, [", ".join(filter(None, parts)), run and f"run: {run}"]))

    def _line(self, event: Event) -> str:
        match event:
            case RunStarted():
                self._is_running = True
                return f"{'resuming' if event.resumed else 'starting'} {event.run}"
            case PhaseStarted() | PhaseAdvanced() | PhaseEnded():
                return self._phase_line(event)
            case DataLoaded():
                return f"data: {event_text.format_data(event)}"
            case Forecast():
                return event_text.format_forecast(event)
            case BaselineChosen():
                return event_text.format_choice(event)
            case Measured():
                return f"{event.model}: {event_text.format_measurement(event)}"
            case RunFinished():
                return event_text.format_run_end(event, self._run)
            case _:
                pass
        return ""

    def _phase_line(self, event: PhaseStarted | PhaseAdvanced | PhaseEnded) -> str:
        match event:
            case PhaseStarted():
                self._start(event)
            case PhaseAdvanced():
                self._progress.advance(event.done, self._clock())
            case PhaseEnded():
                self._start(None)
                if event.seconds >= MIN_PHASE_SECONDS:
                    return f"{event.phase}: done in {format_duration(event.seconds)}"
        return ""

    def _start(self, phase: PhaseStarted | None) -> None:
        self._phase = phase
        self._progress = PhaseProgress(phase.total if phase else None, self._clock())

    def _training_line(self, event: Event) -> str:
        match event:
            case TrainingStarted():
                self._start(None)
                self._training = restore_progress(self._log, event)
                return event_text.format_training_start(event)
            case StepFinished():
                self._training = self._training or TrainingProgress()
                self._training.add(event)
                return self._step_line(event, self._training)
            case CheckpointSaved():
                if self._training is not None:
                    self._training.add_overhead(event.seconds)
                return f"checkpoint saved: step {event.step}"
            case TrainingFinished():
                text = event_text.format_training_end(event, self._training or TrainingProgress())
                self._training = None
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

    def _step_line(self, step: StepFinished, training: TrainingProgress) -> str:
        every = self._every or max(1, step.steps // DEFAULT_STEP_LINES)
        if step.step % every and step.step not in (1, step.steps):
            return ""
        is_last = step.step >= step.steps
        parts = [
            f"step {step.step}/{step.steps}",
            f"loss {format_number(step.loss)}",
            f"lr {format_rate(step.learning_rate)}",
            *event_text.format_step_metrics(training),
            "" if is_last else event_text.format_time_left(training.seconds_left),
        ]
        return "  ".join(filter(None, parts))

"""Plain lines, for logs, pipes and dumb terminals."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TextIO

from tunesmith.events import (
    DataRead,
    Event,
    Forecast,
    Gated,
    Measured,
    Noticed,
    PhaseAdvanced,
    PhaseEnded,
    PhaseStarted,
    RunFinished,
    RunStarted,
    Sampled,
    Saved,
    Stepped,
    Trained,
    TrainingStarted,
    Watched,
)
from tunesmith.text import duration_text, safe_text
from tunesmith_plugins.reporters.console import wording
from tunesmith_plugins.reporters.console.wording import Training

LINES = 20
"""Lines that training takes where the options do not say."""
WORTH_SAYING = 1.0
"""Seconds of a phase below which its end is not mentioned."""
PATIENCE = 30.0
"""Seconds of a long phase after which a line says how far it is."""


class Plain:
    """One line for each thing worth one."""

    def __init__(self, stream: TextIO, *, every: int | None, warnings_only: bool) -> None:
        self._stream = stream
        self._every = every
        self._warnings_only = warnings_only
        self._training = Training()
        self._phase = PhaseStarted(phase="")
        self._began = self._spoke = time.monotonic()

    def __enter__(self) -> Plain:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    def report(self, event: Event) -> None:
        """Put the event into a line, if it is worth one."""
        if isinstance(event, Noticed):
            # An error ends the run, and whoever ends it says so.
            line = wording.noticed_text(event) if event.level != "error" else ""
        else:
            line = "" if self._warnings_only else self._line(event) or self._training_line(event)
        if line:
            print(safe_text(line), file=self._stream, flush=True)

    def _line(self, event: Event) -> str:
        match event:
            case RunStarted():
                return f"{'resuming' if event.resumed else 'starting'} {event.run}"
            case PhaseStarted():
                self._phase = event
                self._began = self._spoke = time.monotonic()
            case PhaseAdvanced():
                return self._advanced(event)
            case PhaseEnded() if event.seconds >= WORTH_SAYING:
                return f"{event.phase}: done in {duration_text(event.seconds)}"
            case DataRead():
                return f"data: {wording.data_text(event)}"
            case Forecast():
                return wording.forecast_text(event)
            case Measured():
                return f"{event.model}: {wording.measured_text(event)}"
            case RunFinished():
                return f"{event.status} after {duration_text(event.seconds)}"
            case _:
                pass
        return ""

    def _training_line(self, event: Event) -> str:
        match event:
            case TrainingStarted():
                self._training = Training()
                return f"training{_named(event.stage)}: {wording.training_text(event)}"
            case Stepped():
                self._training.take(event)
                return self._stepped(event)
            case Saved():
                return f"saved: step {event.step}"
            case Trained():
                text = wording.trained_text(event, self._training)
                self._training = Training()
                return f"trained{_named(event.stage)}: {text} in {duration_text(event.seconds)}"
            case _:
                return self._watching_line(event)

    def _watching_line(self, event: Event) -> str:
        match event:
            case Watched():
                return f"watched{_named(event.stage)}: {wording.watched_text(event)}"
            case Sampled():
                return f"said{_named(event.stage)}: {wording.sampled_text(event)}"
            case Gated():
                return f"gate{_named(event.stage)}: {wording.gated_text(event)}"
            case _:
                return ""

    def _advanced(self, event: PhaseAdvanced) -> str:
        """A line now and then, where a phase takes long."""
        now = time.monotonic()
        if event.phase != self._phase.phase or now - self._spoke < PATIENCE:
            return ""
        self._spoke = now
        total = self._phase.total
        left = wording.left_text(wording.seconds_left(event.done, total, now - self._began))
        of = f" of {total:,}" if total else ""
        return ", ".join(filter(None, [f"{event.phase}: {event.done:,}{of}", left]))

    def _stepped(self, step: Stepped) -> str:
        every = self._every or max(1, step.steps // LINES)
        if step.step % every and step.step not in (1, step.steps):
            return ""
        left = wording.left_text(self._training.seconds_left) if step.step < step.steps else ""
        parts = [
            f"step {step.step}/{step.steps}",
            f"loss {step.loss:.4f}",
            f"lr {step.learning_rate:.2e}",
            *wording.figures(self._training),
            left,
        ]
        return "  ".join(filter(None, parts))


def _named(stage: str) -> str:
    return f" {stage}" if stage else ""

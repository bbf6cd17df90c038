"""A moving display: what is done stands still above, what goes on moves in two lines below."""

from __future__ import annotations

import math
import time
from types import TracebackType
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

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
    RunStarted,
    Sampled,
    Stepped,
    Trained,
    TrainingStarted,
    Watched,
)
from tunesmith.terminal import ASCII_BLOCKS, BLOCKS, colourful, sparkline, unicode
from tunesmith.text import duration_text, one_line, safe_text
from tunesmith_plugins.reporters.console import wording
from tunesmith_plugins.reporters.console.wording import Training

TRAINING = "training"
LABEL, BAR = 24, 28
"""Columns of the label and of the bar."""
REFRESH = 4
"""Drawings per second."""


class Moving:
    """The moving display. It draws from its own thread; events only change what is drawn."""

    def __init__(self, stream: TextIO) -> None:
        self._phase: PhaseStarted | None = None
        self._done = 0
        self._began = 0.0
        self._training: Training | None = None
        self._finished: tuple[str, float, list[str]] | None = None
        colour = colourful(stream)
        self._console = Console(
            file=stream,
            markup=False,
            emoji=False,
            highlight=False,
            force_terminal=True,
            no_color=not colour,
        )
        self._tick, self._blocks = ("✓", BLOCKS) if unicode(stream) else ("ok", ASCII_BLOCKS)
        self._live = Live(
            console=self._console,
            get_renderable=self._drawing,
            refresh_per_second=REFRESH,
            transient=True,
            redirect_stdout=False,
        )

    def __enter__(self) -> Moving:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._settle()
        self._phase = self._training = None
        self._live.stop()

    def report(self, event: Event) -> None:
        """Change what is drawn, and let what is finished stand."""
        if not isinstance(event, Measured):
            self._settle()
        match event:
            case RunStarted():
                self._still(f"{'resuming' if event.resumed else 'starting'} {event.run}", "bold")
            case DataRead():
                self._still(f"  {wording.data_text(event)}", "dim")
            case Forecast():
                self._still(f"  {wording.forecast_text(event)}", "dim")
            case Noticed() if event.level != "error":
                self._still(wording.noticed_text(event), "yellow")
            case Measured():
                self._measured(event)
            case PhaseStarted() | PhaseAdvanced() | PhaseEnded():
                self._take_phase(event)
            case TrainingStarted() | Stepped() | Trained():
                self._take_training(event)
            case Watched() | Sampled() | Gated():
                self._take_watching(event)
            case _:
                pass

    def _take_watching(self, event: Watched | Sampled | Gated) -> None:
        match event:
            case Watched():
                self._still(f"  {wording.watched_text(event)}", "dim")
            case Sampled():
                self._still(f"  {wording.sampled_text(event)}", "dim")
            case Gated():
                style = "green" if event.passed else "yellow" if event.accepted else "red"
                self._still(f"  {wording.gated_text(event)}", style)

    def _take_phase(self, event: PhaseStarted | PhaseAdvanced | PhaseEnded) -> None:
        match event:
            case PhaseStarted():
                self._phase, self._done, self._began = event, 0, time.monotonic()
            case PhaseAdvanced():
                self._done = event.done
            case PhaseEnded():
                self._phase = None
                # Its figures come right after it and belong into the same line.
                self._finished = (event.phase, event.seconds, [])

    def _take_training(self, event: TrainingStarted | Stepped | Trained) -> None:
        match event:
            case TrainingStarted():
                self._phase, self._training = None, Training()
                self._began = time.monotonic()
                self._still(f"  {wording.training_text(event)}", "dim")
            case Stepped():
                self._training = self._training or Training()
                self._training.take(event)
            case Trained():
                said = wording.trained_text(event, self._training or Training())
                name = f"{TRAINING} {event.stage}".strip()
                self._training = None
                self._done_line(name, event.seconds, [said])

    def _measured(self, event: Measured) -> None:
        text = wording.measured_text(event)
        if self._finished is None:
            self._still(f"  {event.model}: {text}")
        else:
            self._finished[2].append(text)

    def _settle(self) -> None:
        """Print the finished phase, if there is one waiting for its figures."""
        if self._finished is not None:
            finished, self._finished = self._finished, None
            self._done_line(*finished)

    def _done_line(self, name: str, seconds: float, figures: list[str]) -> None:
        line = f"{self._tick} {one_line(name, LABEL):<{LABEL}} {duration_text(seconds):>11}"
        shown = Text(safe_text(f"{line}   {', '.join(figures)}".rstrip()))
        shown.stylize("green", 0, len(self._tick))
        self._console.print(shown)

    def _still(self, line: str, style: str = "") -> None:
        self._console.print(Text(safe_text(line), style=style))

    def _drawing(self) -> RenderableType:
        """What moves; called by the drawing thread."""
        training, phase = self._training, self._phase
        elapsed = time.monotonic() - self._began
        if training is not None:
            if training.last is not None:
                return self._training_drawing(training, training.last)
            return _row(TRAINING, None, f"first step, {duration_text(round(elapsed))}")
        if phase is None:
            return Text("")
        left = wording.left_text(wording.seconds_left(self._done, phase.total, elapsed))
        if not phase.total:
            return _row(phase.phase, None, duration_text(round(elapsed)))
        done, known = min(self._done, phase.total), self._done > 0 and elapsed > 1
        speed = f"{self._done / elapsed:.1f} {one_line(phase.unit, 12)}/s" if known else ""
        counted = f"{done}/{phase.total}"
        return _row(
            phase.phase, _bar(done, phase.total), "  ".join(filter(None, [counted, speed, left]))
        )

    def _training_drawing(self, training: Training, step: Stepped) -> RenderableType:
        left = wording.left_text(training.seconds_left)
        counted = f"step {step.step}/{step.steps}"
        name = f"{TRAINING} {step.stage}".strip()
        first = _row(name, _bar(step.step, step.steps), "  ".join(filter(None, [counted, left])))
        curve = sparkline(list(training.recent), blocks=self._blocks)
        loss = f"loss {training.loss:.3f}" if math.isfinite(training.loss) else "loss ?"
        second = "  ".join([loss, curve, *wording.figures(training)])
        return Group(first, Text(safe_text(f"  {second}"), style="dim", no_wrap=True))


def _row(name: str, bar: ProgressBar | None, rest: str) -> Table:
    row = Table.grid(padding=(0, 1))
    row.add_column(width=LABEL + 1, no_wrap=True)
    row.add_column(width=BAR if bar else 0)
    row.add_column(no_wrap=True, overflow="ellipsis")
    row.add_row(Text(f"  {one_line(name, LABEL)}"), bar or Text(""), Text(safe_text(rest)))
    return row


def _bar(done: int, total: int) -> ProgressBar:
    return ProgressBar(
        total=max(1, total),
        completed=max(0, done),
        width=BAR,
        complete_style="cyan",
        finished_style="green",
    )

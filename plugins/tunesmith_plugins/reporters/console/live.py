"""Show a live display: finished phases scroll up as lines, and the current one is redrawn below."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

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
from tunesmith.terminal import supports_color, supports_unicode
from tunesmith.text import format_duration, one_line, redact, safe_text
from tunesmith_evidence.number_text import format_number
from tunesmith_plugins.reporters.console import event_text
from tunesmith_plugins.reporters.console.event_text import MIN_PHASE_SECONDS, TRAINING
from tunesmith_plugins.reporters.console.progress import (
    VALIDATION_LOSS,
    PhaseProgress,
    RunProgress,
    TrainingProgress,
    describe_path,
    restore_progress,
)
from tunesmith_plugins.reporters.console.sparkline import ASCII_BLOCKS, BLOCKS, sparkline

MIN_LABEL_WIDTH, MAX_LABEL_WIDTH, DURATION_WIDTH = 30, 44, 11
CHOOSING = "choosing: "
"""Prefix in the names of phases that compare variants of a baseline; omitted if space is short."""
MIN_BAR_WIDTH, USUAL_BAR_WIDTH, MAX_BAR_WIDTH = 8, 12, 28
COUNT_WIDTH = 34
"""Columns reserved to the right of the bar for count, speed and time left."""
MIN_SPARKLINE_WIDTH, MAX_SPARKLINE_WIDTH = 10, 40
INDENT = 2
REFRESHES_PER_SECOND = 4
SPINNER, ASCII_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", "|/-\\"


@dataclass(frozen=True)
class _FinishedPhase:
    """A phase that has ended. Its line is printed when its metrics have arrived."""

    name: str
    seconds: float
    metrics: list[str] = field(default_factory=list)


class LiveReporter:
    """A live display whose state changes with events, and which rich redraws in a thread."""

    def __init__(self, stream: TextIO, log: Path) -> None:
        now = time.monotonic()
        self._log = log
        self._run = RunProgress(now)
        self._stage = ""
        self._phase: PhaseStarted | None = None
        self._progress = PhaseProgress(None, now)
        self._training: TrainingProgress | None = None
        self._finished: _FinishedPhase | None = None
        self._console = Console(
            file=stream,
            markup=False,
            emoji=False,
            highlight=False,
            force_terminal=True,
            no_color=not supports_color(stream),
        )
        unicode = supports_unicode(stream)
        self._spinner_frames = SPINNER if unicode else ASCII_SPINNER
        self._check_mark, self._blocks = ("✓", BLOCKS) if unicode else ("ok", ASCII_BLOCKS)
        self._path_marks = ("✓", "●", "○", "→") if unicode else ("[x]", "[>]", "[ ]", "->")
        self._live = Live(
            console=self._console,
            get_renderable=self._render,
            refresh_per_second=REFRESHES_PER_SECOND,
            transient=True,
            redirect_stdout=False,
        )

    def __enter__(self) -> LiveReporter:
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._print_finished()
        self._phase = self._training = None
        self._live.stop()

    def report(self, event: Event) -> None:
        """Update the display and print finished phases above it."""
        if not isinstance(event, Measured):
            self._print_finished()
        self._run.add(event, time.monotonic())
        if isinstance(event, RunStarted) and event.resumed:
            self._run.restore(self._log, time.monotonic())
        match event:
            case RunStarted():
                self._print(f"{'resuming' if event.resumed else 'starting'} {event.run}", "bold")
            case DataLoaded() | Forecast() | RunFinished():
                self._print(self._describe(event), "dim", INDENT)
            case FindingReported() if not event_text.ends_run(event):
                self._print(event_text.format_finding(event), "yellow")
            case Measured():
                self._add_measurement(event)
            case PhaseStarted() | PhaseAdvanced() | PhaseEnded():
                self._update_phase(event)
            case TrainingStarted() | StepFinished() | CheckpointSaved() | TrainingFinished():
                self._update_training(event)
            case Monitored() | CompletionSampled() | GateChecked() | BaselineChosen():
                self._print_evaluation(event)
            case _:
                pass

    def _describe(self, event: DataLoaded | Forecast | RunFinished) -> str:
        match event:
            case DataLoaded():
                return event_text.format_data(event)
            case Forecast():
                return event_text.format_forecast(event)
            case RunFinished():
                return event_text.format_run_end(event, self._run)

    def _print_evaluation(
        self, event: Monitored | CompletionSampled | GateChecked | BaselineChosen
    ) -> None:
        match event:
            case BaselineChosen():
                if text := event_text.format_choice(event):
                    self._print(text, "dim", INDENT)
            case Monitored():
                if self._training is not None and VALIDATION_LOSS in event.metrics:
                    self._training.validation_losses.append(event.metrics[VALIDATION_LOSS])
                self._print(event_text.format_monitor(event), "dim", INDENT)
            case CompletionSampled():
                self._print(event_text.format_sample(event), "dim", INDENT)
            case GateChecked():
                style = "green" if event.passed else "yellow" if event.accepted else "red"
                self._print(event_text.format_gate(event), style, INDENT)

    def _update_phase(self, event: PhaseStarted | PhaseAdvanced | PhaseEnded) -> None:
        now = time.monotonic()
        match event:
            case PhaseStarted():
                self._phase, self._progress = event, PhaseProgress(event.total, now)
            case PhaseAdvanced():
                self._progress.advance(event.done, now)
            case PhaseEnded():
                self._phase = None
                # The phase's metrics follow immediately, and are printed on the same line.
                self._finished = _FinishedPhase(event.phase, event.seconds)

    def _update_training(
        self, event: TrainingStarted | StepFinished | CheckpointSaved | TrainingFinished
    ) -> None:
        match event:
            case CheckpointSaved():
                if self._training is not None:
                    self._training.add_overhead(event.seconds)
            case TrainingStarted():
                self._phase, self._training = None, restore_progress(self._log, event)
                self._progress, self._stage = PhaseProgress(None, time.monotonic()), event.stage
                self._print(event_text.format_training_start(event), "dim", INDENT)
            case StepFinished():
                self._training = self._training or TrainingProgress()
                self._training.add(event)
            case TrainingFinished():
                text = event_text.format_training_end(event, self._training or TrainingProgress())
                name = event_text.format_label(TRAINING, event.stage)
                self._training, self._stage = None, ""
                self._print_phase(_FinishedPhase(name, event.seconds, [text]))

    def _add_measurement(self, event: Measured) -> None:
        if self._finished is None:
            self._print(f"{event.model}: {event_text.format_measurement(event)}", indent=INDENT)
            return
        # To fit 80 columns, cut answers are counted once, and the name is not repeated.
        shown = replace(event, cut=0) if self._finished.metrics else event
        text = event_text.format_measurement(shown)
        if self._finished.name.endswith(f": {event.metric}"):
            text = text.removeprefix(f"{event.metric} ")
        self._finished.metrics.append(text)

    def _print_finished(self) -> None:
        """Print the line of the phase that ended last, unless it has been printed already."""
        if self._finished is not None:
            phase, self._finished = self._finished, None
            self._print_phase(phase)

    def _print_phase(self, phase: _FinishedPhase) -> None:
        if phase.seconds < MIN_PHASE_SECONDS and not phase.metrics:
            return
        row = Table.grid(padding=(0, 1))
        row.add_column(no_wrap=True, style="green")
        row.add_column(width=self._label_width, no_wrap=True)
        row.add_column(width=DURATION_WIDTH, no_wrap=True, justify="right")
        row.add_column()
        row.add_row(
            Text(self._check_mark),
            Text(self._label(phase.name)),
            Text(format_duration(phase.seconds)),
            Text(safe_text(", ".join(phase.metrics))),
        )
        self._console.print(row)

    def _print(self, line: str, style: str = "", indent: int = 0) -> None:
        """Print a line, keeping its indent if it wraps."""
        text = Text(redact(safe_text(line)), style=style)
        self._console.print(Padding(text, (0, 0, 0, indent), expand=False))

    def _render(self) -> RenderableType:
        """Render the current phase and the run. Rich's thread calls this."""
        now = time.monotonic()
        training, phase = self._training, self._phase
        left_of_phase = math.nan if phase is None else self._progress.seconds_left(now)
        is_trained = self._run.part == "training"
        current = training.seconds_left if training else 0.0 if is_trained else left_of_phase
        if phase is not None:
            rows = [self._render_phase(phase, now)]
        elif training is not None:
            rows = self._render_training(training, now)
        else:
            rows = []
        if self._run.part:
            rows += self._render_run(now, current)
        return Group(*rows) if rows else Text("")

    def _render_training(self, progress: TrainingProgress, now: float) -> list[RenderableType]:
        step = progress.last
        if step is None:
            elapsed = event_text.format_clock(now - self._progress.started)
            return [self._render_row(TRAINING, None, ["first step", elapsed])]
        time_left = event_text.format_time_left(progress.seconds_left)
        name = event_text.format_label(TRAINING, step.stage)
        bar = self._render_bar(step.step, step.steps)
        rows: list[RenderableType] = [
            self._render_row(name, bar, [f"step {step.step:,}/{step.steps:,}", time_left])
        ]
        metrics = event_text.format_step_metrics(progress)
        rows.append(
            self._render_curve(f"loss {format_number(progress.loss)}", progress.losses, metrics)
        )
        if progress.validation_losses:
            last, best = progress.validation_losses[-1], min(progress.validation_losses)
            parts = [f"best {format_number(best)}"]
            label = f"validation loss {format_number(last)}"
            rows.append(self._render_curve(label, progress.validation_losses, parts))
        return rows

    def _render_curve(
        self, label: str, values: Sequence[float], metrics: Sequence[str]
    ) -> RenderableType:
        """Join label, sparkline and metrics, without the last metrics if space is short."""
        metrics = list(metrics)
        room = self._console.width - INDENT - len(label) - 2
        while metrics and sum(len(text) + 2 for text in metrics) > room - MIN_SPARKLINE_WIDTH:
            metrics.pop()
        width = max(MIN_SPARKLINE_WIDTH, room - sum(len(text) + 2 for text in metrics))
        curve = sparkline(values, min(width, MAX_SPARKLINE_WIDTH), blocks=self._blocks)
        line = safe_text("  ".join([label, curve, *metrics]))
        return Text(f"{'':{INDENT}}{line}", style="dim", no_wrap=True)

    def _render_phase(self, phase: PhaseStarted, now: float) -> RenderableType:
        """Render the bar, the count, the speed and the remaining time of a phase."""
        progress, elapsed = self._progress, now - self._progress.started
        if not phase.total:
            return self._render_row(phase.phase, None, [event_text.format_clock(elapsed)])
        done = min(progress.done, phase.total)
        seconds = progress.seconds_per_unit(now)
        speed = f"{1 / seconds:.1f} {one_line(phase.unit, 12)}/s" if seconds > 0.001 else ""
        time_left = event_text.format_time_left(progress.seconds_left(now))
        # A batch of long prompts can take minutes; the running clock shows that the run is alive.
        clock = event_text.format_clock(elapsed) if elapsed >= 1 and not time_left else ""
        bar = self._render_bar(done, phase.total)
        parts = [f"{done:,}/{phase.total:,}", time_left or clock, speed]
        return self._render_row(phase.phase, bar, parts)

    def _render_run(self, now: float, current: float) -> list[RenderableType]:
        """Render the bar of the whole run, and the path through its stages if there are several."""
        left = self._run.seconds_left(now, current)
        share = self._run.share(now, left)
        time_left = event_text.format_run_left(*left)
        parts = [f"{100 * share:.0f} %" if share else "", time_left]
        elapsed = event_text.format_clock(now - self._run.started)
        bar = self._render_bar(round(1000 * share), 1000)
        rows: list[RenderableType] = [
            self._render_row(f"run: {self._run.part}", bar, [*filter(None, parts)] or [elapsed])
        ]
        if len(self._run.stages) > 1:
            path = describe_path(self._run, self._stage, self._path_marks)
            rows.append(Padding(Text(safe_text(path), style="dim"), (0, 0, 0, INDENT)))
        return rows

    def _render_row(self, name: str, bar: ProgressBar | None, parts: Sequence[str]) -> Table:
        """Render a label, a bar, and as many of the other parts as fit."""
        width = INDENT + self._label_width + 1 + (self._bar_width + 1 if bar else 0)
        shown = [part for part in parts if part]
        while len(shown) > 1 and len("  ".join(shown)) > self._console.width - width:
            shown.pop()
        row = Table.grid(padding=(0, 1))
        row.add_column(width=INDENT - 1, no_wrap=True, style="cyan")
        row.add_column(width=self._label_width, no_wrap=True)
        row.add_column(width=self._bar_width if bar else 0)
        row.add_column(no_wrap=True, overflow="ellipsis")
        count = Text(safe_text("  ".join(shown)))
        row.add_row(Text(self._spinner), Text(self._label(name)), bar or Text(""), count)
        return row

    def _render_bar(self, done: int, total: int) -> ProgressBar:
        return ProgressBar(
            total=max(1, total),
            completed=max(0, done),
            width=self._bar_width,
            complete_style="cyan",
            finished_style="green",
        )

    def _label(self, name: str) -> str:
        """Return a phase's name, without the common prefix if the full name does not fit."""
        width = self._label_width
        return one_line(name if len(name) <= width else name.removeprefix(CHOOSING), width)

    @property
    def _spinner(self) -> str:
        """A character that changes with each redraw, to show that the run is alive."""
        frame = int(time.monotonic() * REFRESHES_PER_SECOND)
        return self._spinner_frames[frame % len(self._spinner_frames)]

    @property
    def _label_width(self) -> int:
        room = self._console.width - INDENT - COUNT_WIDTH - 2 - USUAL_BAR_WIDTH
        return max(MIN_LABEL_WIDTH, min(MAX_LABEL_WIDTH, room))

    @property
    def _bar_width(self) -> int:
        """The width of the bar, leaving room for the label and the count."""
        room = self._console.width - INDENT - self._label_width - COUNT_WIDTH - 2
        return min(MAX_BAR_WIDTH, max(MIN_BAR_WIDTH, room))

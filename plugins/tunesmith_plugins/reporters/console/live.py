"""Live display: finished phases stay as lines, the current one is redrawn below them."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tunesmith.events import (
    CompletionSampled,
    DataLoaded,
    Event,
    Forecast,
    GateChecked,
    Measured,
    Monitored,
    Notice,
    PhaseAdvanced,
    PhaseEnded,
    PhaseStarted,
    RivalChosen,
    RunStarted,
    StepFinished,
    TrainingFinished,
    TrainingStarted,
)
from tunesmith.terminal import supports_color, supports_unicode
from tunesmith.text import format_duration, one_line, redact, safe_text
from tunesmith_plugins.reporters.console import event_text
from tunesmith_plugins.reporters.console.event_text import TRAINING, TrainingProgress
from tunesmith_plugins.reporters.console.sparkline import ASCII_BLOCKS, BLOCKS, sparkline

LABEL_WIDTH, DURATION_WIDTH = 24, 11
MIN_BAR_WIDTH, MAX_BAR_WIDTH = 8, 28
COUNT_WIDTH = 36
"""Columns right of the bar that are reserved for count, speed and time left."""
MIN_SPARKLINE_WIDTH = 10
INDENT = 2
REFRESHES_PER_SECOND = 4


@dataclass(frozen=True)
class _FinishedPhase:
    """A phase that has ended and waits for the metrics that belong to its line."""

    name: str
    seconds: float
    metrics: list[str] = field(default_factory=list)


class LiveReporter:
    """The live display. A thread of rich redraws it; events only change its state."""

    def __init__(self, stream: TextIO) -> None:
        self._phase: PhaseStarted | None = None
        self._done = 0
        self._phase_start = 0.0
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
        self._check_mark, self._blocks = ("✓", BLOCKS) if unicode else ("ok", ASCII_BLOCKS)
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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._print_finished()
        self._phase = self._training = None
        self._live.stop()

    def report(self, event: Event) -> None:
        """Update the display, and print finished phases above it."""
        if not isinstance(event, Measured):
            self._print_finished()
        match event:
            case RunStarted():
                self._print(f"{'resuming' if event.resumed else 'starting'} {event.run}", "bold")
            case DataLoaded():
                self._print(event_text.format_data(event), "dim", INDENT)
            case Forecast():
                self._print(event_text.format_forecast(event), "dim", INDENT)
            case Notice() if not event_text.ends_run(event):
                self._print(event_text.format_notice(event), "yellow")
            case Measured():
                self._add_measurement(event)
            case PhaseStarted() | PhaseAdvanced() | PhaseEnded():
                self._update_phase(event)
            case TrainingStarted() | StepFinished() | TrainingFinished():
                self._update_training(event)
            case Monitored() | CompletionSampled() | GateChecked() | RivalChosen():
                self._print_evaluation(event)
            case _:
                pass

    def _print_evaluation(
        self, event: Monitored | CompletionSampled | GateChecked | RivalChosen
    ) -> None:
        match event:
            case RivalChosen():
                if text := event_text.format_choice(event):
                    self._print(text, "dim", INDENT)
            case Monitored():
                self._print(event_text.format_monitor(event), "dim", INDENT)
            case CompletionSampled():
                self._print(event_text.format_sample(event), "dim", INDENT)
            case GateChecked():
                style = "green" if event.passed else "yellow" if event.accepted else "red"
                self._print(event_text.format_gate(event), style, INDENT)

    def _update_phase(self, event: PhaseStarted | PhaseAdvanced | PhaseEnded) -> None:
        match event:
            case PhaseStarted():
                self._phase, self._done, self._phase_start = event, 0, time.monotonic()
            case PhaseAdvanced():
                self._done = event.done
            case PhaseEnded():
                self._phase = None
                # Its metrics follow immediately and are printed on the same line.
                self._finished = _FinishedPhase(event.phase, event.seconds)

    def _update_training(self, event: TrainingStarted | StepFinished | TrainingFinished) -> None:
        match event:
            case TrainingStarted():
                self._phase, self._training = None, TrainingProgress()
                self._phase_start = time.monotonic()
                self._print(event_text.format_training_start(event), "dim", INDENT)
            case StepFinished():
                self._training = self._training or TrainingProgress()
                self._training.add(event)
            case TrainingFinished():
                text = event_text.format_training_end(event, self._training or TrainingProgress())
                name = event_text.format_label(TRAINING, event.stage)
                self._training = None
                self._print_phase(_FinishedPhase(name, event.seconds, [text]))

    def _add_measurement(self, event: Measured) -> None:
        text = event_text.format_measurement(event)
        if self._finished is None:
            self._print(f"{event.model}: {text}", indent=INDENT)
        else:
            self._finished.metrics.append(text)

    def _print_finished(self) -> None:
        """Print the finished phase that waits for its metrics, if there is one."""
        if self._finished is not None:
            phase, self._finished = self._finished, None
            self._print_phase(phase)

    def _print_phase(self, phase: _FinishedPhase) -> None:
        row = Table.grid(padding=(0, 1))
        row.add_column(no_wrap=True, style="green")
        row.add_column(width=LABEL_WIDTH, no_wrap=True)
        row.add_column(width=DURATION_WIDTH, no_wrap=True, justify="right")
        row.add_column()
        row.add_row(
            Text(self._check_mark),
            Text(one_line(phase.name, LABEL_WIDTH)),
            Text(format_duration(phase.seconds)),
            Padding(Text(safe_text(", ".join(phase.metrics))), (0, 0, 0, INDENT)),
        )
        self._console.print(row)

    def _print(self, line: str, style: str = "", indent: int = 0) -> None:
        """Print a line; the rest of a line that is too long is indented as well."""
        text = Text(redact(safe_text(line)), style=style)
        self._console.print(Padding(text, (0, 0, 0, indent), expand=False))

    def _render(self) -> RenderableType:
        """Render the current phase. The thread of the display calls this."""
        training, phase = self._training, self._phase
        elapsed = time.monotonic() - self._phase_start
        if training is not None:
            if training.last is not None:
                return self._render_training(training, training.last)
            return self._render_row(
                TRAINING, None, f"first step, {format_duration(round(elapsed))}"
            )
        if phase is None:
            return Text("")
        return self._render_phase(phase, self._done, elapsed)

    def _render_training(self, progress: TrainingProgress, step: StepFinished) -> RenderableType:
        time_left = event_text.format_time_left(progress.seconds_left)
        count = f"step {step.step}/{step.steps}"
        name = event_text.format_label(TRAINING, step.stage)
        bar = self._render_bar(step.step, step.steps)
        first = self._render_row(name, bar, "  ".join(filter(None, [count, time_left])))
        loss = f"loss {progress.loss:.3f}" if math.isfinite(progress.loss) else "loss ?"
        second = self._fit_step_line(loss, progress)
        return Group(first, Text(safe_text(f"{'':{INDENT}}{second}"), style="dim", no_wrap=True))

    def _fit_step_line(self, loss: str, progress: TrainingProgress) -> str:
        """Join loss, sparkline and metrics; shorten the sparkline, then drop the last metrics."""
        metrics = event_text.format_step_metrics(progress)
        room = self._console.width - INDENT - len(loss) - 2
        while metrics and sum(len(text) + 2 for text in metrics) > room - MIN_SPARKLINE_WIDTH:
            metrics.pop()
        width = max(MIN_SPARKLINE_WIDTH, room - sum(len(text) + 2 for text in metrics))
        curve = sparkline(list(progress.recent_losses)[-width:], blocks=self._blocks)
        return "  ".join([loss, curve, *metrics])

    def _render_phase(self, phase: PhaseStarted, done: int, elapsed: float) -> RenderableType:
        """Render the bar, count, speed and time left of a phase."""
        if not phase.total:
            return self._render_row(phase.phase, None, format_duration(round(elapsed)))
        seconds_left = event_text.estimate_seconds_left(done, phase.total, elapsed)
        done_so_far = min(done, phase.total)
        has_speed = done > 0 and elapsed > 1
        speed = f"{done / elapsed:.1f} {one_line(phase.unit, 12)}/s" if has_speed else ""
        parts = [f"{done_so_far}/{phase.total}", speed, event_text.format_time_left(seconds_left)]
        bar = self._render_bar(done_so_far, phase.total)
        return self._render_row(phase.phase, bar, "  ".join(filter(None, parts)))

    def _render_row(self, name: str, bar: ProgressBar | None, text: str) -> Table:
        row = Table.grid(padding=(0, 1))
        row.add_column(width=INDENT + LABEL_WIDTH, no_wrap=True)
        row.add_column(width=self._bar_width if bar else 0)
        row.add_column(no_wrap=True, overflow="ellipsis")
        label = Text(f"{'':{INDENT}}{one_line(name, LABEL_WIDTH)}")
        row.add_row(label, bar or Text(""), Text(safe_text(text)))
        return row

    def _render_bar(self, done: int, total: int) -> ProgressBar:
        return ProgressBar(
            total=max(1, total),
            completed=max(0, done),
            width=self._bar_width,
            complete_style="cyan",
            finished_style="green",
        )

    @property
    def _bar_width(self) -> int:
        """Width of the bar that leaves room for the label and the count."""
        room = self._console.width - INDENT - LABEL_WIDTH - COUNT_WIDTH - 2
        return min(MAX_BAR_WIDTH, max(MIN_BAR_WIDTH, room))

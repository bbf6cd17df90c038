"""Show the progress of a search as lines and as a live display on stderr."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tunesmith.terminal import supports_color, supports_live_display
from tunesmith.text import format_duration, one_line
from tunesmith_cli import render
from tunesmith_evidence.number_text import format_interval, format_number
from tunesmith_optuna.findings import Row, describe_state, format_option
from tunesmith_optuna.trial_log import TrialLog
from tunesmith_optuna.trial_run import Objective

BAR_WIDTH = 24


class SearchView:
    """Prints a line when a trial starts or ends, and shows running trials on a terminal."""

    def __init__(self, objective: Objective, names: Mapping[str, str], *, quiet: bool) -> None:
        self._objective, self._names = objective, names
        self._running: Sequence[TrialLog] = ()
        self._live: Live | None = None
        if not quiet and supports_live_display(sys.stderr):
            console = Console(
                file=sys.stderr, markup=False, emoji=False, highlight=False,
                no_color=not supports_color(sys.stderr),
            )  # fmt: skip
            self._live = Live(
                console=console, get_renderable=self._render, transient=True,
                auto_refresh=False, redirect_stdout=False, redirect_stderr=False,
            )  # fmt: skip

    def __enter__(self) -> SearchView:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._running = ()
        if self._live:
            self._live.stop()

    def begin(self, number: int, options: Mapping[str, object], resumed: bool) -> None:
        """Print the number and options of a starting trial."""
        texts = [f"{self._names[key]} {format_option(value)}" for key, value in options.items()]
        self._print(f"trial {number} {'continues' if resumed else 'starts'}: {', '.join(texts)}")

    def update(self, running: Sequence[TrialLog]) -> None:
        """Update the live display with the progress of the running trials."""
        self._running = [*running]
        if self._live:
            self._live.refresh()

    def end(self, row: Row) -> None:
        """Print the score of a trial, or the reason why it has none."""
        if row.result is None:
            self._print(f"trial {row.number} {describe_state(row)}", style="warning")
            return
        result = row.result
        interval = format_interval(result.low, result.high)
        self._print(
            f"trial {row.number}: {one_line(self._objective.metric.name, 40)} "
            f"{format_number(result.value)} {interval}, {format_duration(row.seconds)}"
        )

    def _print(self, text: str, style: str = "") -> None:
        if self._live:
            self._live.console.print(render.build_text(text, style))
        else:
            render.print_note(text, style=style)

    def _render(self) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        for log in self._running:
            number = int(log.folder.name.rpartition("-")[2])
            share = log.step / log.steps if log.steps else 0.0
            facts = [f"{log.step}/{log.steps}" if log.steps else "waiting or preparing"]
            losses = {"loss": log.loss, "validation loss": log.validation_loss}
            facts += [f"{name} {format_number(x)}" for name, x in losses.items() if x is not None]
            bar = ProgressBar(total=1.0, completed=share, width=BAR_WIDTH)
            table.add_row(Text(f"trial {number}"), bar, Text("  ".join(facts)))
        return Group(table) if self._running else Text("")

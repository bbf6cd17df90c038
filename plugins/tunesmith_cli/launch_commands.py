"""Build the commands of launchers, the plugins that run training elsewhere, such as ``slurm``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import click

from tunesmith import api
from tunesmith.errors import UsageError
from tunesmith.events import JSON
from tunesmith.options import Options
from tunesmith.storage import RunFolder
from tunesmith_cli import render
from tunesmith_cli.common import common_options, json_option, start_options
from tunesmith_cli.launch import F, option_flags, read_last_lines

JobT = TypeVar("JobT")

_run_argument = click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
_lines_option = click.option(
    "--lines",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    help="Number of lines from the end of the log.",
)
_rank_option = click.option(
    "--rank", type=click.IntRange(0), default=0, show_default=True, help="Rank of the process."
)


@dataclass(frozen=True)
class JobStatus:
    """The state of a job, reported by its launcher."""

    is_active: bool
    """True while the job is queued or running."""
    facts: Mapping[str, str]
    """Facts to show to the user, by name; empty values are omitted."""
    content: JSON
    """The facts to print with ``--json``."""
    rank: int = 0
    """Rank of the process whose log is most useful to the user."""


@dataclass(frozen=True)
class JobCommands(Generic[JobT]):
    """Builds the commands of a launcher from functions that read and stop a run's newest job."""

    name: str
    """Name of the group of commands."""
    find_job: Callable[[Path], JobT | None]
    """Return the newest job of a run folder, or None if none was submitted."""
    query: Callable[[Path, JobT], JobStatus]
    cancel: Callable[[Path, JobT], str]
    """Stop the job, and return a sentence that tells the user what happened."""
    find_log: Callable[[Path, JobT, int], Path]
    """Return the log of a process, given its rank."""
    has_ranks: bool = False
    """True if each process has its own log."""

    def open(self, folder: Path) -> tuple[RunFolder, JobT]:
        """Open a run folder and its newest job.

        Raises:
            UsageError: the folder is not a run folder, or no job was submitted.
        """
        run = RunFolder.open(folder)
        found = self.find_job(run.path)
        if found is None:
            raise UsageError(
                f"{folder}: no job was submitted for this run",
                hint=f"`tunesmith {self.name} submit` submits a run file or a run folder",
            )
        return run, found

    def status_command(self) -> click.Command:
        """Build the command ``status``, which shows the state of a job and its run."""

        @click.command("status")
        @_run_argument
        @json_option
        @common_options
        def command(run: Path, as_json: bool) -> None:
            """Show the job of a run, and how far the run has progressed."""
            folder, job = self.open(run)
            status = self.query(folder.path, job)
            report = api.read_report(folder.path)
            last = list(report.steps.values())[-1] if report.steps else None
            state = report.status if report.started else "not begun"
            if as_json:
                steps = {"step": last.step if last else None, "steps": last.steps if last else None}
                head = {"schema": f"tunesmith.{self.name}-status/1", **status.content}
                render.print_json({**head, "run": state, **steps})
                return
            step = f"{last.step} of {last.steps}, loss {last.loss:.3f}" if last else ""
            for name, value in {**status.facts, "run": state, "step": step}.items():
                if value:
                    render.print_text(f"{name + ':':<12}{value}")
            shown = render.shell_path(run)
            if report.status == "ok":
                render.print_note(f"\nsee the results:\n  tunesmith report {shown}")
            elif not status.is_active:
                rank = f" --rank {status.rank}" if status.rank else ""
                logs = f"tunesmith {self.name} logs {shown}{rank}"
                render.print_note(f"\nsee what happened:\n  {logs}")
                self._show_submit(run)

        return command

    def logs_command(self) -> click.Command:
        """Build the command ``logs``, which prints the end of a job's log."""

        def command(run: Path, lines: int, rank: int = 0) -> None:
            """Print the end of the log of a run's newest job, over all its starts."""
            folder, job = self.open(run)
            path = self.find_log(folder.path, job, rank)
            if not path.is_file():
                raise UsageError(
                    f"{path}: the job has not printed anything yet",
                    hint=f"`tunesmith {self.name} status {render.shell_path(run)}` shows whether "
                    "the job is queued",
                )
            render.print_note(f"{path}\n")
            for line in read_last_lines(path, lines):
                render.print_text(line)

        options = _lines_option(common_options(command))
        options = _rank_option(options) if self.has_ranks else options
        return click.command("logs")(_run_argument(options))

    def cancel_command(self) -> click.Command:
        """Build the command ``cancel``, which stops the job of a run."""

        @click.command("cancel")
        @_run_argument
        @common_options
        def command(run: Path) -> None:
            """Stop the job of a run. The run stops after the current step and can be continued."""
            folder, job = self.open(run)
            render.print_text(self.cancel(folder.path, job))
            self._show_submit(run)

        return command

    def _show_submit(self, run: Path) -> None:
        again = f"tunesmith {self.name} submit {render.shell_path(run)}"
        render.print_note(f"\ncontinue the run:\n  {again}")


def submit_options(
    options: type[Options],
    flags: Mapping[str, type],
    table: str,
    *,
    dry_run: str,
    out: str = "Run folder to create; default: a new folder in [run] folder.",
) -> Callable[[F], F]:
    """Return a decorator that adds the options of commands that submit runs.

    The options are ``--set``, the flags of the launcher's table, ``--out``, ``--dry-run``,
    ``--trust-plugins``, ``--json`` and the common options. The command receives the
    :class:`CliState` as its first argument. ``dry_run`` and ``out`` are help texts.
    """

    def add(function: F) -> F:
        function = start_options(function, out)
        function = click.option("--dry-run", is_flag=True, help=dry_run)(function)
        return option_flags(options, flags, table)(function)

    return add

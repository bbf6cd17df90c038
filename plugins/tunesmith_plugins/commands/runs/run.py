"""``tunesmith run``: train a model, and evaluate it before and after."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from tunesmith import api, distributed
from tunesmith.errors import RunStopped, TunesmithError, UsageError
from tunesmith.execution import execute
from tunesmith.execution.report import Report
from tunesmith.storage import RunFolder
from tunesmith_cli import render
from tunesmith_cli.common import CliState, start_options
from tunesmith_evidence.report.view import ReportView
from tunesmith_plugins.commands.runs import show_report
from tunesmith_plugins.commands.runs.ignore_signals import ignore_stop_signals_after_error


@click.command("run")
@click.argument("run_file", metavar="RUN.toml", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Start even if the predicted memory does not fit.")
@start_options
def command(
    state: CliState,
    run_file: Path,
    sets: tuple[str, ...],
    out: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Train a model, and evaluate it on test rows before and after.

    Scores, verdict and paths are printed on stdout, progress on stderr. The run folder receives the
    model, all scores and report.json. Ctrl-C stops after the current step; continue with `tunesmith
    resume`.
    """
    if distributed.rank() > 0:
        api.run_worker_rank(files=state.files, disabled=state.disabled)
        return
    plan, catalog = api.load_plan(run_file, sets=sets, files=state.files, disabled=state.disabled)
    api.require_runnable(plan)
    folder = api.create_run_folder(plan, out)
    state.run_folder = folder.path
    with show_failed_run(folder, as_json):
        report = execute.run(state.apply_quiet(plan), catalog, folder, force=force)
    show(report, folder, as_json)


@contextmanager
def show_failed_run(folder: RunFolder, as_json: bool) -> Iterator[None]:
    """If the run fails in the block, print the results so far and how to resume."""
    with ignore_stop_signals_after_error():
        try:
            yield
        except TunesmithError as error:
            if isinstance(error, RunStopped):
                error.hint = f"resume with: tunesmith resume {render.shell_path(folder.path)}"
            if not isinstance(error, UsageError):
                show(execute.load_report(folder), folder, as_json)
            raise


def show(report: Report, folder: RunFolder, as_json: bool) -> None:
    """Print the results on stdout, as text or as JSON."""
    view = ReportView(report, folder.path)
    if as_json:
        render.print_json(show_report.to_json(view))
        return
    show_report.show_verdict(view)
    show_report.show_gates(report)
    show_report.show_scores(view)
    show_report.show_fit(view)
    show_report.show_paths(view)
    show_report.show_next_commands(view)

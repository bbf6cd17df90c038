"""``tunesmith run``: from a run file to a verdict."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import click

from tunesmith import api, distributed
from tunesmith.cli import render, report_view
from tunesmith.cli.common import State, common_options, json_option, pass_state, set_option
from tunesmith.errors import RunStopped, TunesmithError, UsageError
from tunesmith.execution import execute
from tunesmith.execution.report import Report
from tunesmith.plan import Plan
from tunesmith.storage import RunFolder


@click.command("run")
@click.argument("run_file", metavar="RUN.toml", type=click.Path(path_type=Path))
@set_option
@click.option("--out", type=click.Path(path_type=Path), help="Exactly this folder for the run.")
@click.option("--force", is_flag=True, help="Begin also a run that does not fit into memory.")
@json_option
@common_options
@pass_state
def command(
    state: State,
    run_file: Path,
    sets: tuple[str, ...],
    out: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Train, measure before and after, and judge whether it was worth it.

    The result goes to stdout; the weights, the evidence and report.json go to the run's folder.
    Ctrl-C ends the run after the step in progress, and `tunesmith resume` continues it.
    """
    if distributed.number() > 0:
        api.attend(files=state.files, disabled=state.disabled)
        return
    plan, catalog = api.load(run_file, sets=sets, files=state.files, disabled=state.disabled)
    api.refuse_unrunnable(plan)
    folder = api.new_folder(plan, out)
    with explained(folder, as_json):
        report = execute.run(heard(plan, state), catalog, folder, force=force)
    show(report, folder, as_json)


def heard(plan: Plan, state: State) -> Plan:
    """The plan, without reporters where ``--quiet`` asks for results only."""
    return replace(plan, reporters=()) if state.quiet else plan


@contextmanager
def explained(folder: RunFolder, as_json: bool) -> Iterator[None]:
    """Where a run ends early, say where it is and how it goes on."""
    with distributed.outspoken():
        try:
            yield
        except TunesmithError as error:
            if isinstance(error, RunStopped):
                error.hint = f"resume with: tunesmith resume {report_view.quoted(folder.path)}"
            if not isinstance(error, UsageError):
                show(execute.recorded(folder), folder, as_json)
            raise


def show(report: Report, folder: RunFolder, as_json: bool) -> None:
    """The result on stdout, as a table or as JSON."""
    if as_json:
        render.data({**report.to_json(), "folder": str(folder.path)})
        return
    report_view.show_gates(report)
    report_view.show_scores(report)
    report_view.show_verdict(report)
    report_view.show_next(folder.path, report)

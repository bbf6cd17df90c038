"""``tunesmith report``: what came of a run, from its events."""

from __future__ import annotations

from pathlib import Path

import click

from tunesmith import api
from tunesmith.cli import render, report_view
from tunesmith.cli.common import State, common_options, json_option, pass_state
from tunesmith.execution import execute
from tunesmith.execution.regressions import changed_rows
from tunesmith.execution.report import Report
from tunesmith.storage import RunFolder
from tunesmith.text import one_line


@click.command("report")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--failures",
    type=click.IntRange(min=0),
    default=5,
    show_default=True,
    help="How many rows to show that got worse.",
)
@click.option(
    "--to",
    "reporter",
    metavar="REPORTER",
    help="Send everything to this reporter instead, html say; see tunesmith plugins list.",
)
@json_option
@common_options
@pass_state
def command(state: State, run: Path, failures: int, reporter: str | None, as_json: bool) -> None:
    """Show what came of a run: scores with intervals, verdict, loss curve, what got worse.

    Works while the run goes on and after it was killed: everything is read from its events.
    """
    if reporter is not None:
        api.send_report(run, reporter)
        return
    folder = RunFolder.open(run)
    report = execute.recorded(folder)
    if report.finished is not None:  # a crash can leave none behind, or that of an earlier attempt
        execute.write_report(folder, report)
    if as_json:
        render.data({**report.to_json(), "folder": str(folder.path)})
        return
    show(report, folder, failures)


def show(report: Report, folder: RunFolder, failures: int) -> None:
    """The report for people."""
    started, finished = report.started, report.finished
    when = f", started {started.started}" if started else ""
    render.say(f"{one_line(folder.id)}: {report.status}{when}", style="strong")
    if finished is not None and finished.error:
        render.say(f"{finished.status}: {finished.error}", style="bad")
    report_view.show_data(report)
    report_view.show_notices(report)
    report_view.show_training(report)
    report_view.show_forecast(report)
    report_view.show_gates(report)
    if report.measured:
        render.say()
        report_view.show_scores(report)
    report_view.show_verdict(report)
    verdict = finished.verdict if finished else {}
    if failures and verdict:
        changed = changed_rows(folder.path, verdict, report)
        report_view.show_changed(changed, str(verdict.get("rival", "")), failures)
    report_view.show_next(folder.path, report)

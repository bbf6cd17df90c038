"""``tunesmith report``: show the results of a run from its events."""

from __future__ import annotations

from pathlib import Path

import click

from tunesmith.errors import UsageError
from tunesmith.execution import execute
from tunesmith.execution.report import Report
from tunesmith.storage import RunFolder
from tunesmith.text import one_line
from tunesmith_cli import render
from tunesmith_cli.common import CliState, result_options, trust_option
from tunesmith_evidence.formats import format_date
from tunesmith_evidence.report.answers import read_answers
from tunesmith_evidence.report.markdown import render_markdown
from tunesmith_evidence.report.status import find_status
from tunesmith_plugins.commands.runs import training_view, view
from tunesmith_plugins.commands.runs.replay import replay_events


@click.command("report")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--failures",
    type=click.IntRange(min=0),
    default=5,
    show_default=True,
    help="Number of wrong test rows to show, those that got worse first.",
)
@click.option("--markdown", "as_markdown", is_flag=True, help="Print the report as Markdown.")
@click.option(
    "--card",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    metavar="FILE",
    help="Write the result on one page, without rows of the data, for a pull request: FILE.md or "
    "FILE.svg; - prints Markdown.",
)
@click.option(
    "--to",
    "reporter",
    metavar="REPORTER",
    help="Write the report with this reporter instead, such as html.",
)
@trust_option
@result_options
def command(  # noqa: PLR0913 - one parameter for each option of the command line
    state: CliState,
    run: Path,
    failures: int,
    as_markdown: bool,
    card: Path | None,
    reporter: str | None,
    as_json: bool,
) -> None:
    """Show the results of a run: verdict, scores with intervals, loss curve, wrong rows.

    RUN is the run folder. It works also while the run is in progress and after it was killed,
    because all data comes from its event log.
    """
    if reporter is not None:
        replay_events(run, reporter)
        return
    folder = RunFolder.open(run)
    report = execute.load_report(folder)
    if report.finished is not None:
        # After a crash, report.json may be missing or belong to an earlier attempt.
        execute.write_report(folder, report)
    if as_json:
        render.print_json(view.to_json(folder.path, report))
        return
    if card is not None:
        write_card(report, folder, card)
        return
    if as_markdown:
        render.print_text(render_markdown(report, folder.path, failures).rstrip())
        return
    show(report, folder, failures)


def write_card(report: Report, folder: RunFolder, path: Path) -> None:
    """Write the card to a new file, as Markdown or SVG by its name; ``-`` prints Markdown.

    Raises:
        UsageError: the name ends in neither, or the file exists or cannot be written.
    """
    from tunesmith_evidence.report.card import render_card_markdown, render_card_svg

    if str(path) == "-":
        render.print_text(render_card_markdown(report, folder.path).rstrip())
        return
    forms = {".md": render_card_markdown, ".svg": render_card_svg}
    if path.suffix.lower() not in forms:
        raise UsageError(f"--card {path}: not a name of a card", hint="use FILE.md or FILE.svg")
    render.write_new(path, [forms[path.suffix.lower()](report, folder.path)])
    render.print_note(f"card: {path}")


def show(report: Report, folder: RunFolder, failures: int) -> None:
    """Print the report as text."""
    started, finished = report.started, report.finished
    when = f", started {format_date(started.started)}" if started else ""
    status = find_status(folder.path, report)
    render.print_text(f"{one_line(folder.id)}: {status}{when}", style="strong")
    if finished is not None and finished.error and finished.verdict:
        render.print_paragraph(f"{finished.status}: {finished.error}", style="bad")
    view.show_ending(folder.path, report)
    view.show_verdict(report)
    view.show_data(report)
    view.show_findings(report)
    training_view.show_training(report)
    training_view.show_forecast(report)
    view.show_gates(report)
    if report.measured:
        render.print_text()
        view.show_scores(report)
    view.show_fit(folder.path, report)
    answers = read_answers(folder.path, report) if failures else None
    if answers is not None:
        training_view.show_answers(answers, failures)
    view.show_paths(folder.path, report)
    view.show_next_commands(folder.path, report)

"""``tunesmith report``: show the results of a run from its events."""

from __future__ import annotations

from pathlib import Path

import click

from tunesmith.errors import UsageError
from tunesmith.execution import execute
from tunesmith.storage import RunFolder
from tunesmith.text import one_line
from tunesmith_cli import render
from tunesmith_cli.common import CliState, result_options, trust_option
from tunesmith_evidence.number_text import format_date
from tunesmith_evidence.report.markdown import render_markdown
from tunesmith_evidence.report.view import ReportView
from tunesmith_plugins.commands.runs import show_report
from tunesmith_plugins.commands.runs.replay import replay_events


@click.command("report")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--failures",
    type=click.IntRange(min=0),
    default=5,
    show_default=True,
    help="Number of incorrect test rows to show; rows that tuning made worse come first.",
)
@click.option("--markdown", "as_markdown", is_flag=True, help="Print the report as Markdown.")
@click.option(
    "--card",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    metavar="FILE",
    help="Write the result on one page for a pull request, without data rows, to FILE.md or "
    "FILE.svg; - prints Markdown.",
)
@click.option(
    "--to",
    "reporter",
    metavar="REPORTER",
    help="Write the report with this reporter instead, for example html.",
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
    """Show the results of a run: verdict, scores with intervals, loss curve, incorrect answers.

    RUN is the run folder. The report is built from the event log, so it is also available during a
    run and after a crash.
    """
    if reporter is not None:
        replay_events(run, reporter)
        return
    folder = RunFolder.open(run)
    report = execute.load_report(folder)
    if report.finished is not None:
        # After a crash, report.json may be missing or belong to an earlier attempt.
        execute.write_report(folder, report)
    view = ReportView(report, folder.path)
    if as_json:
        render.print_json(show_report.to_json(view))
        return
    if card is not None:
        write_card(view, card)
        return
    if as_markdown:
        render.print_text(render_markdown(view, failures).rstrip())
        return
    show(view, folder.id, failures)


def write_card(view: ReportView, path: Path) -> None:
    """Write the card to a new .md or .svg file, or print it as Markdown for ``-``.

    Raises:
        UsageError: the suffix is neither .md nor .svg, or the file exists or cannot be written.
    """
    from tunesmith_evidence.report.card import render_card_markdown, render_card_svg

    if str(path) == "-":
        render.print_text(render_card_markdown(view).rstrip())
        return
    forms = {".md": render_card_markdown, ".svg": render_card_svg}
    if path.suffix.lower() not in forms:
        raise UsageError(
            f"--card {path}: unknown card format",
            hint="use FILE.md or FILE.svg; for a PDF, open the SVG in a browser and print it",
        )
    render.write_new_file(path, [forms[path.suffix.lower()](view)])
    render.print_note(f"wrote the card to {path}")


def show(view: ReportView, number: str, failures: int) -> None:
    """Print the report as text. ``number`` is the run's id."""
    report, started = view.report, view.report.started
    when = f", started {format_date(started.started)}" if started else ""
    render.print_text(f"{one_line(number)}: {view.status}{when}", style="strong")
    if view.error:
        render.print_paragraph(f"{report.status}: {view.error}", style="bad")
    show_report.show_ending(view)
    show_report.show_verdict(view)
    if report.data is not None:
        show_report.show_data(report.data)
    show_report.show_findings(report.findings)
    show_report.show_training(report)
    show_report.show_forecast(view)
    show_report.show_gates(report.gates.values())
    if view.metrics:
        render.print_text()
        show_report.show_scores(view)
    show_report.show_fit(view)
    show_report.show_answer_parts(view)
    answers = view.answers if failures else None
    if answers is not None:
        show_report.show_answers(answers, failures)
    show_report.show_paths(view)
    show_report.show_next_commands(view)

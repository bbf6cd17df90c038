"""``tunesmith monitor``: watch the traffic of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tunesmith.errors import UsageError
from tunesmith.storage import write_atomic
from tunesmith.text import format_count, one_line
from tunesmith_cli import render
from tunesmith_cli.common import CliState, result_options, trust_option

if TYPE_CHECKING:
    from tunesmith_monitor.monitor import Monitor


@click.command("monitor")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--traffic", "files", multiple=True, metavar="FILE",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="JSON Lines file of requests, which may still grow. Repeatable.",
)  # fmt: skip
@click.option(
    "--reference", type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="FILE",
    help="Earlier traffic to compare with. Default: the validation and test rows of the run.",
)  # fmt: skip
@click.option(
    "--state", "folder", type=click.Path(path_type=Path), metavar="FOLDER",
    help="Folder of the monitor. Default: the run folder's name with `.monitor`.",
)  # fmt: skip
@click.option(
    "--run-length", type=click.IntRange(100), default=20_000, show_default=True,
    help="Requests per false alarm, on average, if nothing changes.",
)  # fmt: skip
@click.option(
    "--window", type=click.IntRange(10), default=50, show_default=True,
    help="Requests in a short window.",
)  # fmt: skip
@click.option(
    "--tolerance", type=click.FloatRange(0, 1, max_open=True), default=0.02, show_default=True,
    help="Largest fall of the share of right answers without an alarm.",
)  # fmt: skip
@click.option("--close", is_flag=True, help="Close the open alarms after the report.")
@click.option(
    "--label", "labels", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="Write the rows to label next to a new file.",
)  # fmt: skip
@trust_option
@result_options
@click.pass_context
def command(  # noqa: PLR0913 - one parameter for each option of the command line
    context: click.Context,
    state: CliState,
    run: Path,
    files: tuple[Path, ...],
    reference: Path | None,
    folder: Path | None,
    run_length: int,
    window: int,
    tolerance: float,
    close: bool,
    labels: Path | None,
    as_json: bool,
) -> int:
    """Watch the traffic of RUN: what changed, and if answers became worse.

    Reads what is new in the traffic files, and writes a report and the page `page.html`. Each line
    has a `prompt` or `messages`, and may have `confidence` or `logprob` of the answer, or `right`
    (1 or 0) if somebody checked it.

    Exit code 0: no open alarm. 10: requests changed, so look. 11: answers became worse.
    """
    from tunesmith_monitor import report
    from tunesmith_monitor.monitor import Monitor, MonitorOptions

    if labels is not None and labels.exists():  # Somebody may have labeled its rows.
        raise UsageError(f"{labels}: already exists", hint="choose a new file with --label")
    given = [
        name
        for name in ("run_length", "window", "tolerance")
        if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
    ]
    options = MonitorOptions(run_length=run_length, window=window, tolerance=tolerance)
    chosen = options if given else None
    with Monitor.open(
        run, folder, options=chosen, reference=reference, plugins=state.files
    ) as monitor:
        monitor.read(files)
        watch = monitor.watch
        code, found = report.exit_code(watch), report.to_json(monitor)
        report.write_page(monitor, monitor.folder / "page.html")
        if labels is not None:
            lines = [
                json.dumps({"id": id_, "prompt": text, "completion": ""}) + "\n"
                for id_, text in watch.choose_rows_to_label()
            ]
            write_atomic(labels, "".join(lines))
            render.print_note(f"{labels}: wrote {format_count(len(lines), 'row')} to label")
        if as_json:
            render.print_json(found)
        else:
            show(monitor)
        if close:
            watch.close_alarms()
    return code


def show(monitor: Monitor) -> None:
    """Print the report."""
    from tunesmith_monitor import report

    watch = monitor.watch
    render.print_paragraph(report.summarize(watch), style="strong")
    for alarm in watch.alarms:
        render.print_text()
        render.print_paragraph(report.describe(alarm))
        for example in alarm.examples[:3]:
            render.print_text(f"  e.g. {one_line(example, 70)}")
    render.print_text()
    for name, text in report.describe_layers(monitor):
        render.print_paragraph(f"{name}: {text}")
    if watch.unusable:
        render.print_text(f"unusable lines: {watch.unusable:,}")
    if watch.alarms:
        render.print_text("\nRows to label next:")
        for _, text in watch.choose_rows_to_label(5):
            render.print_text(f"  {one_line(text, 76)}")
    render.print_text()
    render.print_paragraph(f"{report.state_budget(monitor)} {report.BLIND}")
    render.print_note(f"\npage: {monitor.folder / 'page.html'}")

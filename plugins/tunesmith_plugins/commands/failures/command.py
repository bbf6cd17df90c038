"""``tunesmith failures``: find where a run's tuned model is weak."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import click

from tunesmith.errors import UsageError
from tunesmith.events import JSON
from tunesmith.text import format_count, one_line, redact_all
from tunesmith_cli import render
from tunesmith_cli.common import CliState, result_options
from tunesmith_evidence.number_text import format_number, format_rows
from tunesmith_evidence.report.previews import PreviewImage, read_previews, replace_parts
from tunesmith_evidence.slices.candidates import MIN_ROWS
from tunesmith_evidence.slices.discover import WeakSlice
from tunesmith_evidence.slices.rows import ScoredRow
from tunesmith_plugins.commands.failures.find import (
    Failures,
    export_rows,
    find_failures,
    open_results,
)

BASE_BETTER = "the base model was better"


@click.command("failures")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--metric", help="Metric to judge rows by. Default: the verdict's metric.")
@click.option(
    "--items",
    type=click.IntRange(0),
    default=3,
    show_default=True,
    help="Number of rows to show of each kind.",
)
@click.option(
    "--export",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write all failed rows to a new JSONL file, with the reasons to review each one.",
)
@click.option(
    "--for-next",
    is_flag=True,
    help=(
        "Export only one half of the rows, so that the other half can show if the next run is "
        "better."
    ),
)
@result_options
def command(  # noqa: PLR0913 - one parameter for each option of the command line
    state: CliState,
    run: Path,
    metric: str | None,
    items: int,
    export: Path | None,
    for_next: bool,
    as_json: bool,
) -> None:
    """Find where the tuned model of a run is weak.

    RUN is a run folder, or a folder written by `tunesmith evaluate`. Weak slices (columns, labels,
    lengths, files, topics) are discovered on one half of the rows and confirmed on the other. The
    output also lists the worst rows, rows that the base model answered better, and near-misses.
    """
    if for_next and export is None:
        raise UsageError("--for-next: this option needs --export FILE")
    folder, report = open_results(run)
    failures = find_failures(folder, report, metric)
    if export is not None:
        count = write_rows(failures, export, for_next)
        advice = "collect similar rows, but do not train on these rows"
        if for_next:
            advice = f"correct them, or collect similar rows, for `tunesmith next {run} --add`"
        render.print_note(
            f"wrote {format_count(count, 'row')} to {export}. These are test rows: {advice}"
        )
    if as_json:
        render.print_json(to_json(folder, failures))
        return
    show(failures, items, read_previews(folder))


def write_rows(failures: Failures, path: Path, for_next: bool) -> int:
    """Write the failed rows to a new file, and return their number.

    Raises:
        UsageError: the file exists, or cannot be written.
    """
    rows = (redact_all(row) for row in export_rows(failures, for_next))
    return render.write_new_file(path, (json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def to_json(folder: Path, failures: Failures) -> JSON:
    """Return the failures as JSON (schema ``tunesmith.failures/1``)."""
    measured = failures.measured
    return {
        "schema": "tunesmith.failures/1",
        "run": str(folder),
        "evaluator": measured.evaluator,
        "metric": measured.metric,
        "value": measured.value,
        "rows": len(failures.rows),
        "slices": [
            {
                "name": weak.slice.name,
                "kind": weak.slice.kind,
                "confirmed": weak.is_confirmed,
                "value": weak.value,
                "others": weak.others,
                "n": weak.n,
                "units": weak.units,
                "p_value_holm": weak.p_value,
                "rows": [failures.rows[i].number for i in sorted(weak.slice.members)],
            }
            for weak in failures.slices
        ],
        "wrong": [asdict(row) for row in failures.wrong],
        "base": failures.base,
        "regressed": [
            {**asdict(row), "base_output": old.output, "base_value": old.value}
            for row, old in failures.regressed
        ],
        "near_misses": [{**asdict(row), "what": what} for row, what in failures.near_misses],
    }


def show(failures: Failures, items: int, previews: Mapping[str, PreviewImage]) -> None:
    """Print the weak slices, the worst rows, the regressed rows and the near-misses as text.

    ``previews`` are the pictures of the rows; their descriptions stand in place of the images.
    """
    measured, rows = failures.measured, len(failures.rows)
    better = "higher" if measured.higher_is_better else "lower"
    render.print_text(
        f"{one_line(measured.metric)} {format_number(measured.value)} "
        f"on {format_rows(rows, measured.units, 'row')}, {better} is better",
        style="strong",
    )
    if failures.replaced:
        render.print_text(
            f"{one_line(failures.replaced)} has no per-row scores, so this output uses another "
            "metric"
        )
    show_slices(failures.slices, rows)
    for title, label, found in (
        ("the worst rows", "", [(row, "") for row in failures.wrong]),
        (BASE_BETTER, "base:     ", [(r, o.output) for r, o in failures.regressed]),
        ("near-misses", "", [*failures.near_misses]),
    ):
        render.print_text()
        is_known = failures.base or title != BASE_BETTER
        count = format_count(len(found), "row") if is_known else "not measured with this metric"
        render.print_text(f"{title}: {count}", style="strong")
        for row, note in found[:items]:
            question, _ = replace_parts(row.question, previews)
            show_row(row, question, label, note)


def show_slices(slices: Sequence[WeakSlice], rows: int) -> None:
    """Print the tested slices. ``rows`` is the total number of rows."""
    render.print_text()
    confirmed = [weak for weak in slices if weak.is_confirmed]
    if rows < 2 * MIN_ROWS:
        needed = f"at least {2 * MIN_ROWS} rows ({MIN_ROWS} inside a slice, {MIN_ROWS} outside)"
        render.print_text(f"weak slices were not searched for, because this needs {needed}")
    elif not confirmed:
        render.print_text("no weak slice was confirmed on the second half of the rows")
    if slices:
        render.print_table(
            ["slice", "this", "others", "n", "p (Holm)", ""],
            [
                [
                    one_line(weak.slice.name, 70),
                    format_number(weak.value),
                    format_number(weak.others),
                    format_rows(weak.n, weak.units),
                    format_number(weak.p_value),
                    ("weak", "bad") if weak.is_confirmed else ("unclear", "dim"),
                ]
                for weak in slices
            ],
            right=(1, 2, 3, 4),
        )


def show_row(row: ScoredRow, question: str, label: str, note: str) -> None:
    """Print a row with its prompt, its expected and actual answers, and optionally a note."""
    render.print_text(f"  {one_line(row.source)}")
    if question:
        render.print_text(f"    prompt:   {one_line(question, 300)}")
    render.print_text(f"    expected: {one_line(row.expected, 300)}")
    render.print_text(f"    answer:   {one_line(row.output, 300)}")
    if label or note:
        render.print_text(f"    {label}{one_line(note, 300)}", style="dim")

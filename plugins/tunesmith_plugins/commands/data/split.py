"""``tunesmith data split``: write training, validation and test rows to separate files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

import click

from tunesmith.contracts import Split, SplitRequest
from tunesmith.errors import UsageError
from tunesmith.options import RunOptions, from_table
from tunesmith.records import Record
from tunesmith.storage import write_atomic
from tunesmith.text import format_count, one_line
from tunesmith_cli import render
from tunesmith_cli.common import CliState, result_options
from tunesmith_cli.data_source import DataSource, data_argument
from tunesmith_data.splits import PARTS, split_records
from tunesmith_data.write_rows import record_to_row
from tunesmith_plugins.commands.data.open_data import count_skipped, open_rows, show_skipped

SPLIT_FILE = "split.json"


@click.command("split")
@data_argument
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder for train.jsonl, validation.jsonl, test.jsonl and split.json.",
)
@click.option(
    "--test-size",
    metavar="SHARE|N",
    help="Size of the test file: a share below 1, or a number of rows.",
)
@click.option(
    "--validation-size", metavar="SHARE|N", help="Size of the validation file, in the same form."
)
@result_options
def command(
    state: CliState,
    data: DataSource,
    out: Path,
    test_size: str | None,
    validation_size: str | None,
    as_json: bool,
) -> None:
    """Split rows into training, validation and test files without leaks.

    If a run file is given, its training rows are split, and its test and validation files stay as
    they are. Rows with equal or nearly equal prompts, or of the same group, go to the same
    part. If the folder has a split.json from an earlier split, old rows keep their part and new
    rows are added.
    """
    dataset = open_rows(data, state)
    records = dataset.train
    out.mkdir(parents=True, exist_ok=True)
    request = SplitRequest(
        records=records,
        seed=from_table(RunOptions, {}).seed,
        test=dataset.test is None,
        test_size=_size(test_size, "--test-size"),
        validation=dataset.validation is None,
        needs_validation=False,
    )
    file = out / SPLIT_FILE
    split = split_records(
        iter(records), request, validation=_size(validation_size, "--validation-size"), file=file
    )
    others = {"test": dataset.test, "validation": dataset.validation}
    written = [part for part in PARTS if others.get(part) is None]
    counts = {part: _write_part(out, part, getattr(split, part), records) for part in written}
    _write_clusters(out, split, records)
    if as_json:
        findings = [finding.message for finding in split.findings]
        found = {"rows": counts, "clusters": len(set(split.clusters)), "findings": findings}
        found["skipped"] = count_skipped(dataset)
        render.print_json({"schema": "tunesmith.data-split/1", "out": str(out), **found})
        return
    show_skipped(dataset)
    for part, count in counts.items():
        unset = "" if count else f"; do not set data.{part}, or split with --{part}-size"
        render.print_text(f"wrote {format_count(count, 'row')} to {out / part}.jsonl{unset}")
    clusters = format_count(len(set(split.clusters)), "cluster")
    render.print_text(f"wrote {clusters} of rows that stay together to {out / 'clusters.csv'}")
    for finding in split.findings:
        render.print_text(f"{finding.level}: {one_line(finding.message, 500)}")


def _size(text: str | None, option: str) -> float | int | None:
    """Parse a split size, which is a share of the rows or a number of rows."""
    if text is None:
        return None
    try:
        return int(text) if text.isdigit() else float(text)
    except ValueError:
        raise UsageError(f"{option} {text}: must be a share below 1 or a number of rows") from None


def _write_part(out: Path, part: str, rows: Sequence[int], records: Sequence[Record]) -> int:
    """Write the rows of a split to a JSON Lines file, and return their number."""
    lines = (json.dumps(record_to_row(records[row]), ensure_ascii=False) + "\n" for row in rows)
    write_atomic(out / f"{part}.jsonl", "".join(lines))
    return len(rows)


def _write_clusters(out: Path, split: Split, records: Sequence[Record]) -> None:
    """Write clusters.csv: one line per row, with its source, split and cluster."""
    part_of = {row: part for part in PARTS for row in getattr(split, part)}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["source", "part", "cluster"])
    for row, cluster in enumerate(split.clusters):
        writer.writerow([records[row].source, part_of[row], cluster])
    write_atomic(out / "clusters.csv", text.getvalue())

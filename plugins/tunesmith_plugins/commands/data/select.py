"""``tunesmith data select``: write a small, representative subset of rows."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from tunesmith.errors import UsageError
from tunesmith.storage import write_atomic
from tunesmith_cli import render
from tunesmith_cli.common import CliState, result_options
from tunesmith_cli.data_source import DataSource, data_argument
from tunesmith_data.splits import PromptTexts
from tunesmith_data.write_rows import record_to_row
from tunesmith_plugins.commands.data.open_data import count_skipped, open_rows, show_skipped
from tunesmith_plugins.commands.data.selection import Selection, select_rows


@click.command("select")
@data_argument
@click.option("--rows", type=click.IntRange(min=1), required=True, help="Number of rows to select.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="JSON Lines file to write.",
)
@result_options
def command(state: CliState, data: DataSource, rows: int, out: Path, as_json: bool) -> None:
    """Select a representative subset of rows, for example to label or review first.

    Exact duplicates are always skipped, and near-duplicates are skipped if enough other rows
    remain. Rows are selected so that the subset covers the remaining rows as well as possible. Only
    prompts are compared, not answers. The same file and number of rows always give the same
    selection.
    """
    if out.exists():
        raise UsageError(f"{out}: already exists", hint="choose another file name")
    dataset = open_rows(data, state)
    records = dataset.train
    found = select_rows(PromptTexts(records), rows)
    lines = (
        json.dumps(record_to_row(records[row]), ensure_ascii=False) + "\n" for row in found.rows
    )
    write_atomic(out, "".join(lines))
    if as_json:
        values = {**asdict(found), "rows": [records[row].source for row in found.rows]}
        values["skipped"] = count_skipped(dataset)
        render.print_json({"schema": "tunesmith.data-select/1", "out": str(out), **values})
    else:
        show_skipped(dataset)
        _print(found, len(records), rows, out)


def _print(found: Selection, total: int, wanted: int, out: Path) -> None:
    render.print_text(f"wrote {len(found.rows):,} of {total:,} rows to {out}")
    skipped = {"duplicates": found.equal, "near-duplicates": found.similar}
    for what, count in skipped.items():
        if count:
            render.print_text(f"skipped {count:,} {what} of earlier rows")
    if len(found.rows) < wanted:
        render.print_text(f"the file has fewer than {wanted:,} different rows", style="warning")
    if found.compared < total - found.equal - found.similar:
        render.print_text(f"selected from a random sample of {found.compared:,} rows")
    render.print_paragraph(
        f"mean similarity to the nearest selected row: {found.similarity:.2f} (with the same "
        f"number of random rows: {found.random_similarity:.2f})"
    )

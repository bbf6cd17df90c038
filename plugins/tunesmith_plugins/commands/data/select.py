"""``tunesmith data select``: write a few rows that stand for many."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from tunesmith.errors import UsageError
from tunesmith.storage import write_atomic
from tunesmith_cli import render
from tunesmith_cli.common import CliState, result_options
from tunesmith_data.splits import PromptTexts
from tunesmith_data.write_rows import to_row
from tunesmith_plugins.commands.data.open_data import count_skipped, open_rows, show_skipped
from tunesmith_plugins.commands.data.selection import Selection, select_rows


@click.command("select")
@click.argument("data", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--rows", type=click.IntRange(min=1), required=True, help="Rows to choose.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="File of JSON Lines to write.",
)
@result_options
def command(state: CliState, data: Path, rows: int, out: Path, as_json: bool) -> None:
    """Choose rows that stand for all, such as those to label or to review first.

    Rows that equal or resemble an earlier one are skipped if enough others are there. The rest is
    chosen so that each row has a similar one among the chosen rows. Prompts are compared, not
    answers. The same file gives the same rows.
    """
    if data.suffix == ".toml":
        raise UsageError(f"{data}: name a file of rows")
    if out.exists():
        raise UsageError(f"{out}: exists already", hint="name another file")
    dataset = open_rows(data, state)
    records = dataset.train
    found = select_rows(PromptTexts(records), rows)
    lines = (json.dumps(to_row(records[row]), ensure_ascii=False) + "\n" for row in found.rows)
    write_atomic(out, "".join(lines))
    if as_json:
        values = {**asdict(found), "rows": [records[row].source for row in found.rows]}
        values["skipped"] = count_skipped(dataset)
        render.print_json({"schema": "tunesmith.data-select/1", "out": str(out), **values})
    else:
        show_skipped(dataset)
        _print(found, len(records), rows, out)


def _print(found: Selection, total: int, wanted: int, out: Path) -> None:
    render.print_text(f"{out}: {len(found.rows):,} of {total:,} rows")
    skipped = {"equal an earlier one": found.equal, "resemble an earlier one": found.similar}
    for what, count in skipped.items():
        if count:
            render.print_text(f"{count:,} rows are skipped because they {what}")
    if len(found.rows) < wanted:
        render.print_text(f"there are no {wanted:,} different rows", style="warning")
    if found.compared < total - found.equal - found.similar:
        render.print_text(f"chosen from {found.compared:,} of the rows, a random sample")
    render.print_paragraph(
        f"The mean similarity of a row to the nearest chosen one is {found.similarity:.2f}; of as "
        f"many rows chosen at random, it is {found.random_similarity:.2f}"
    )

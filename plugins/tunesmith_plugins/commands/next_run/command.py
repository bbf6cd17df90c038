"""``tunesmith next``: write the run file of a run's next iteration."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click
import tomli_w

from tunesmith import api
from tunesmith.data.units import restore_loaded_groups
from tunesmith.errors import UsageError
from tunesmith.events import JSON
from tunesmith.execution.run_data import DataParts, load_data
from tunesmith.plan import Plan
from tunesmith.records import Record, last_exchange
from tunesmith.storage import write_atomic
from tunesmith.text import format_count
from tunesmith_cli import render
from tunesmith_cli.common import CliState, result_options
from tunesmith_data.write_rows import record_to_row
from tunesmith_plugins.commands.next_run.collected import load_collected, read_first_half


@click.command("next")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--add", type=click.Path(path_type=Path, exists=True, dir_okay=False), required=True,
    metavar="FILE", help="Rows to add: training rows, or corrected rows of failures --export.",
)  # fmt: skip
@click.option(
    "--out", type=click.Path(path_type=Path), required=True,
    help="Folder to create for the run file and its rows.",
)  # fmt: skip
@result_options
def command(state: CliState, run: Path, add: Path, out: Path, as_json: bool) -> None:
    """Write the run file of RUN's next iteration, with its training rows and those in --add.

    Options and test rows stay the same, so that `tunesmith compare` can show if the slices you
    collected rows for improved. Test rows in --add are moved to training. This is only allowed for
    rows that `tunesmith failures RUN --export FILE --for-next` wrote.
    """
    folder, plan, _ = api.load_run(run, files=state.files, disabled=state.disabled)
    added = load_collected(add, plan)
    parts = load_data(plan)[1]
    moved = find_test_rows_among(parts.test, added)
    first_half = read_first_half(folder.path)
    late = [row for row in moved if row not in first_half]
    if late:
        where = parts.test[late[0]].source
        raise UsageError(
            f"{add}: contains {format_count(len(late), 'test row')} of the half that must show the "
            f"improvement, such as {where}",
            hint=f"add only rows written by `tunesmith failures {run} --export FILE --for-next`, "
            "or rows similar to them",
        )
    leaving = set(moved)
    test = restore_loaded_groups(parts.test)
    kept = [record for row, record in enumerate(test) if row not in leaving]
    lineage = {"parent": str(folder.path.resolve())}
    write_folder(out, plan, parts, added, kept, lineage)
    if as_json:
        result = {"folder": str(out), "train": len(parts.train), "added": len(added)}
        result |= {"test": len(kept), "moved": len(moved), **lineage}
        render.print_json({"schema": "tunesmith.next/1", **result})
        return
    render.print_text(
        f"wrote the run file and its rows to {out}: "
        f"{format_count(len(parts.train), 'training row')} plus "
        f"{format_count(len(added), 'added row')}; "
        f"{format_count(len(kept), 'test row')} remain, and {len(moved):,} moved to training"
    )
    here = render.shell_path(out)
    render.print_note(
        f"\nNext commands:\n  tunesmith run {here}/run.toml --out {here}/run\n"
        f"  tunesmith compare {render.shell_path(run)} {here}/run"
    )


def find_test_rows_among(test: Sequence[Record], added: Sequence[Record]) -> list[int]:
    """Return the indices of the test rows whose prompts are among the added rows."""
    prompts = {last_exchange(record)[0] for record in added}
    return [row for row, record in enumerate(test) if last_exchange(record)[0] in prompts]


def write_folder(
    out: Path,
    plan: Plan,
    parts: DataParts,
    added: Sequence[Record],
    test: Sequence[Record],
    lineage: JSON,
) -> None:
    """Write the run file and its rows to a new folder.

    Raises:
        UsageError: the folder exists, or cannot be created.
    """
    try:
        out.mkdir(parents=True)
    except FileExistsError:
        raise UsageError(f"{out}: already exists", hint="choose a new folder") from None
    except OSError as error:
        raise UsageError(f"{out}: cannot create the folder: {error.strerror}") from None
    validation = restore_loaded_groups(parts.validation)
    files = {"train": parts.train, "added": added, "test": test, "validation": validation}
    columns = find_label_columns([record for records in files.values() for record in records])
    for name, records in files.items():
        if records:
            write_atomic(out / f"{name}.jsonl", to_json_lines(records, columns))
    write_atomic(out / "run.toml", to_run_file(plan, files, columns, lineage))


def find_label_columns(records: Sequence[Record]) -> JSON:
    """Return the data options for group and slice columns, if the records have any."""
    slices = list(dict.fromkeys(name for record in records for name, _ in record.slices))
    has_groups = any(record.group is not None for record in records)
    return ({"group": "group"} if has_groups else {}) | ({"slices": slices} if slices else {})


def to_json_lines(records: Iterable[Record], columns: JSON) -> str:
    """Return records as JSON Lines that all have the same columns for groups and slices.

    A record without a group becomes a group by itself. Missing slice labels are null.
    """
    lines = []
    for record in records:
        labels: JSON = dict.fromkeys(columns.get("slices", []))
        if "group" in columns:
            labels[columns["group"]] = record.source
        lines.append(json.dumps(labels | record_to_row(record), ensure_ascii=False) + "\n")
    return "".join(lines)


def to_run_file(
    plan: Plan, files: dict[str, Sequence[Record]], columns: JSON, lineage: JSON
) -> str:
    """Return the parent's run file, changed to read the rows from the new files."""
    tables = tomllib.loads(plan.to_toml())
    data: dict[str, Any] = {"use": "jsonl", "train": ["train.jsonl", "added.jsonl"]}
    data |= {name: f"{name}.jsonl" for name in ("test", "validation") if files[name]}
    tables["data"] = data | columns
    tables["lineage"] = lineage
    return tomli_w.dumps(tables)

"""The folder of a generation: its rows with their provenance, the rejected rows, and the plan.

::

    synthetic.jsonl     the kept rows; columns with `synthetic` have their provenance
    rejected.jsonl      the other rows, with the cause
    to-label.jsonl      rows for a person, from `pseudo-label`
    plan.toml           the run file of the real rows, resolved
    run.toml            the same with the synthetic rows added
    card.json           counts, licenses, and the result of the ablation
    croissant.json      the card for mlcroissant
    ablation/           the arms
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tunesmith.config.run_file import read_run_file
from tunesmith.config.trust import require_trusted, trust_code
from tunesmith.errors import DataError, UsageError
from tunesmith.generators import GeneratedRow
from tunesmith.options import from_table
from tunesmith.records import Record
from tunesmith.storage import write_atomic
from tunesmith_data import FieldOptions, Row, RowSource, SourceLoader, parse_row
from tunesmith_data.splits import prompt_text
from tunesmith_data.write_rows import record_to_row
from tunesmith_synthetic.filter import Filtered
from tunesmith_synthetic.request import PROVENANCE, Request

ROWS, REJECTED, PLAN, RUN, CARD = (
    "synthetic.jsonl",
    "rejected.jsonl",
    "plan.toml",
    "run.toml",
    "card.json",
)


def to_row(request: Request, number: int, row: GeneratedRow) -> dict[str, Any]:
    """Return a row with its provenance, in the group of its parent."""
    parent = None if row.parent is None else request.parts.train[row.parent]
    name = "" if parent is None else Path(parent.source).name
    own = parent.group if parent else f"{request.generator.offer.name} {number}"
    # Slices serve to report test scores, and the names of their columns may have other meanings.
    content = record_to_row(replace(row.record, group=own or name, slices=()))
    prompt = prompt_text(row.record)
    provenance = {
        "": request.generator.offer.name,
        "_parent": name,
        "_prompt_sha256": hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest(),
        "_model": row.model,
        "_seed": request.seed,
        "_details": json.dumps(dict(row.details), ensure_ascii=False, sort_keys=True),
    }
    return {**content, **{f"{PROVENANCE}{name}": value for name, value in provenance.items()}}


def write_dataset(request: Request, found: Filtered) -> None:
    """Write the rows, the rejected rows and the run files."""
    kept = [to_row(request, number, row) for number, row in enumerate(found.kept, 1)]
    rejected = [
        {**to_row(request, number, row), "cause": cause}
        for number, (row, cause) in enumerate(found.rejected, 1)
    ]
    for name, rows in ((ROWS, kept), (REJECTED, rejected)):
        # A rejected row may contain characters that UTF-8 cannot encode.
        lines = (json.dumps(row, ensure_ascii=name == REJECTED) + "\n" for row in rows)
        write_atomic(request.folder / name, "".join(lines))
    write_run_files(request)


def write_run_files(request: Request) -> None:
    """Write the resolved run file, without and with the synthetic rows."""
    import tomli_w

    tables = tomllib.loads(request.plan.to_toml())
    trust_code(tables, request.folder)
    write_atomic(request.folder / PLAN, tomli_w.dumps(tables))
    write_atomic(request.folder / RUN, tomli_w.dumps(with_data(request, tables, {})))


def with_data(
    request: Request, tables: Mapping[str, Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the tables of a run file whose data loader is ``synthetic``, with these options."""
    table = {"use": PROVENANCE, "folder": str(request.folder.absolute()), **options}
    # Without validation rows, the splitter must not take some from the added rows.
    split = {} if request.parts.validation else {"split": {"validation_size": 0}}
    kept = {name: value for name, value in tables.items() if name != "split"}
    return {**kept, **split, "data": table}


def digest_rows(folder: Path) -> str:
    """Return the SHA-256 of the rows of a generation, as hexadecimal digits."""
    return hashlib.sha256((folder / ROWS).read_bytes()).hexdigest()


def read_plan_file(folder: Path) -> Mapping[str, Any]:
    """Return the tables of the real rows' run file.

    Raises:
        DataError: the folder was not written by ``tunesmith data generate``.
    """
    path = folder / PLAN
    if not path.is_file():
        raise DataError(
            f"{path}:1",
            "there is no such file, so the folder has no synthetic rows",
            hint="write them with `tunesmith data generate`",
        )
    tables = read_run_file(path, environment={}).tables
    require_trusted(tables, folder)
    return tables


@dataclass(frozen=True)
class SyntheticRows:
    """The kept rows of a generation, with their card."""

    records: Sequence[Record]
    card: Mapping[str, Any]


def read_dataset(folder: Path) -> SyntheticRows:
    """Read the rows of a generation; a slice of each row names its generator.

    Raises:
        DataError: a file is missing, or a row was changed so that it cannot be used.
    """
    path, card = folder / ROWS, read_card(folder)
    lines = path.read_bytes().splitlines()
    rows = [parse_row(line) for line in lines]

    def read() -> Iterator[Row]:
        for number, row in enumerate(rows, 1):
            yield Row(number, {k: v for k, v in row.items() if not k.startswith(PROVENANCE)})

    if not rows:
        return SyntheticRows((), card)
    source = RowSource.of_rows(str(path), read)
    options = from_table(FieldOptions, {"group": "group", "max_skipped": 0.0})
    records = SourceLoader(options, [source]).load().train
    named = [
        replace(record, slices=(*record.slices, (PROVENANCE, str(row[PROVENANCE]))))
        for record, row in zip(records, rows, strict=True)
    ]
    return SyntheticRows(named, card)


def read_card(folder: Path) -> dict[str, Any]:
    """Return the data card of a generation.

    Raises:
        UsageError: the folder has no card.
    """
    path = folder / CARD
    if not path.is_file():
        raise UsageError(
            f"{folder}: has no synthetic rows", hint="write them with `tunesmith data generate`"
        )
    card: dict[str, Any] = json.loads(path.read_bytes())
    return card

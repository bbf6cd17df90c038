"""Read the rows collected for the next iteration, and the test rows that may be among them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tunesmith import api
from tunesmith.errors import DataError, UsageError
from tunesmith.events import TUNED
from tunesmith.execution.evaluate import read_rows
from tunesmith.execution.execute import load_report
from tunesmith.fence import fence
from tunesmith.plan import Plan
from tunesmith.records import ROLES, Chat, Completion, Message, Record
from tunesmith.storage import RunFolder
from tunesmith_evidence.improvement import choose_verdict_metric
from tunesmith_evidence.slices.discover import split_in_halves
from tunesmith_evidence.slices.rows import to_scored_rows


def load_collected(path: Path, plan: Plan) -> list[Record]:
    """Return the rows of a file: training rows, or corrected rows from an export of failures.

    Raises:
        DataError: the file cannot be read, or contains no valid rows.
    """
    exported = _read_export(path)
    if exported is not None:
        return exported
    stored = plan.to_json()
    tables = {name: stored[name] for name in ("model", "technique", "plugins")}
    loaded, _ = api.load_plan({**tables, "data": {"train": str(path.resolve())}})
    with fence(loaded.data.offered.plugin, "load"):
        return [*loaded.data.offer.build(loaded.data.config).load().train]


def _read_export(path: Path) -> list[Record] | None:
    """Return the rows of an export of failures, or None if the file is not such an export."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
        rows = [(n, json.loads(line)) for n, line in enumerate(lines, 1) if line.strip()]
    except (OSError, ValueError, RecursionError):
        return None  # The data loader will report the error.
    keys = {"messages", "expected", "reasons"}
    if not rows or not all(isinstance(row, dict) and keys <= row.keys() for _, row in rows):
        return None
    return [_to_record(f"{path}:{number}", row) for number, row in rows]


def _to_record(where: str, row: dict[str, Any]) -> Record:
    """Convert a row of an export to a training row with the expected answer."""
    turns, expected = row["messages"], row["expected"]
    try:
        messages = [Message(turn["role"], turn["content"]) for turn in turns]
        is_usable = all(m.role in ROLES and isinstance(m.content, str) for m in messages)
    except (LookupError, TypeError):
        is_usable = False
    if not is_usable or not messages or not isinstance(expected, str) or not expected.strip():
        raise DataError(
            where, "the row needs `messages`, and the right answer as text in `expected`"
        )
    labels: dict[str, Any] = {"group": row.get("group"), "slices": row.get("columns", ())}
    if len(messages) == 1 and messages[0].role == "user":
        return Completion(source=where, prompt=messages[0].text, completion=expected, **labels)
    answer = Message("assistant", expected)
    return Chat(source=where, messages=(*messages, answer), **labels)


def read_first_half(run: Path) -> frozenset[int]:
    """Return the numbers of the test rows in the half that the user may collect.

    Raises:
        UsageError: the run has not been evaluated.
    """
    report = load_report(RunFolder.open(run))
    key = choose_verdict_metric(report)
    if key is None:
        raise UsageError(
            f"{run}: the test rows have not been evaluated",
            hint=f"finish the run: tunesmith resume {run}",
        )
    event = report.measured[TUNED, *key]
    rows = to_scored_rows(read_rows(run / event.records, event.metric), event.metric)
    first, _ = split_in_halves(rows)
    return frozenset(rows[position].number for position in first)

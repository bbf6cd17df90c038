"""The system prompt that a model was trained with, from the test rows of its run."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tunesmith.execution.evaluate import read_rows
from tunesmith.execution.report import Report
from tunesmith_evidence.slices.rows import to_rows

COMMON = 0.9
"""Share of the rows that must have a system prompt for it to be that of the data."""


def find_system_prompt(folder: Path, report: Report) -> tuple[str, int]:
    """Return the system prompt of nearly all rows, and the number of different ones.

    The test rows are of the same data as the training rows. The prompt is empty if there is
    none, or if the rows have different ones.

    Raises:
        IntegrityError: the file with the values of the rows is damaged.
    """
    event = next(iter(report.tuned), None)
    if event is None or not (folder / event.records).is_file():
        return "", 0
    rows = to_rows(read_rows(folder / event.records, event.metric), event.metric)
    found = Counter("\n\n".join(t for role, t in row.prompt if role == "system") for row in rows)
    if not found:
        return "", 0
    prompt, count = found.most_common(1)[0]
    different = len(found) - ("" in found)
    return (prompt if count >= COMMON * len(rows) else ""), different

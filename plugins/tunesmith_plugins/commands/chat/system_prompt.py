"""Infer the training data's system prompt from a run's test rows."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tunesmith.execution.evaluate import read_rows
from tunesmith.execution.report import Report
from tunesmith_evidence.slices.rows import to_scored_rows

COMMON = 0.9
"""Minimum share of rows with the same system prompt."""


def find_system_prompt(folder: Path, report: Report) -> tuple[str, int]:
    """Return the common system prompt, and the number of distinct system prompts.

    Search the test rows, because a run folder has no training rows. The common prompt is empty if
    the rows have no system prompt, or if no system prompt occurs in at least 90 % of them.

    Raises:
        IntegrityError: the per-row results file is damaged.
    """
    event = next(iter(report.tuned), None)
    if event is None or not (folder / event.records).is_file():
        return "", 0
    rows = to_scored_rows(read_rows(folder / event.records, event.metric), event.metric)
    found = Counter("\n\n".join(t for role, t in row.prompt if role == "system") for row in rows)
    if not found:
        return "", 0
    prompt, count = found.most_common(1)[0]
    different = len(found) - ("" in found)
    return (prompt if count >= COMMON * len(rows) else ""), different

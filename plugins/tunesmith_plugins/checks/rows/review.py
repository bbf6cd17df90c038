"""Run all checks of rows in one pass over the records."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tunesmith.contracts import Finding
from tunesmith.records import Record
from tunesmith_plugins.checks.rows.check import Check
from tunesmith_plugins.checks.rows.copied_answers import copied_answers
from tunesmith_plugins.checks.rows.duplicates import Duplicates
from tunesmith_plugins.checks.rows.edge_cases import EdgeCases
from tunesmith_plugins.checks.rows.json_answers import JsonAnswers
from tunesmith_plugins.checks.rows.labels import Labels
from tunesmith_plugins.checks.rows.lengths import Lengths
from tunesmith_plugins.checks.rows.personal_data import personal_data
from tunesmith_plugins.checks.rows.preference_pairs import PreferencePairs
from tunesmith_plugins.checks.rows.row import Part, read_row
from tunesmith_plugins.checks.rows.text_faults import text_faults

CHECKS: tuple[Callable[[], Check], ...] = (
    Duplicates,
    Labels,
    JsonAnswers,
    Lengths,
    text_faults,
    personal_data,
    copied_answers,
    PreferencePairs,
    EdgeCases,
)


def review(
    train: Sequence[Record],
    dev: Sequence[Record] = (),
    heldout: Sequence[Record] = (),
    *,
    checks: Sequence[Callable[[], Check]] = CHECKS,
) -> list[Finding]:
    """Return the findings of all checks; each record is read once."""
    running = [create() for create in checks]
    parts: dict[Part, Sequence[Record]] = {"train": train, "dev": dev, "heldout": heldout}
    for part, records in parts.items():
        for number, record in enumerate(records):
            row = read_row(record, part, number)
            if row is not None:
                for check in running:
                    check.add(row)
    return [finding for check in running for finding in check.findings(train)]

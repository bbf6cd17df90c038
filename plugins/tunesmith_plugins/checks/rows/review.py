"""Run all row checks in one pass over the records.

Duplicates, labels and lengths are always checked in all rows. If there are many rows, only a sample
is searched for faults of single rows, because a fault that is absent from hundreds of thousands of
rows is rare.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from tunesmith.contracts import Finding
from tunesmith.records import Record
from tunesmith_plugins.checks.rows.block import read_blocks
from tunesmith_plugins.checks.rows.check import Check, build_finding
from tunesmith_plugins.checks.rows.copied_answers import COPIES
from tunesmith_plugins.checks.rows.detectors import Detectors
from tunesmith_plugins.checks.rows.duplicates import Duplicates
from tunesmith_plugins.checks.rows.edge_cases import EdgeCases
from tunesmith_plugins.checks.rows.json_answers import JsonAnswers
from tunesmith_plugins.checks.rows.labels import Labels
from tunesmith_plugins.checks.rows.lengths import Lengths
from tunesmith_plugins.checks.rows.personal_data import PERSONAL_DATA
from tunesmith_plugins.checks.rows.preference_pairs import PreferencePairs
from tunesmith_plugins.checks.rows.repetition import REPETITION
from tunesmith_plugins.checks.rows.row import Part
from tunesmith_plugins.checks.rows.text_faults import TEXT_FAULTS


def create_row_detectors() -> Detectors:
    """Create the detectors for faults of single rows."""
    return Detectors(
        {"text": (*TEXT_FAULTS, REPETITION), "personal data": PERSONAL_DATA, "copies": COPIES}
    )


CHECKS: tuple[Callable[[], Check], ...] = (
    Duplicates,
    Labels,
    JsonAnswers,
    Lengths,
    create_row_detectors,
    PreferencePairs,
    EdgeCases,
)
SINGLE_ROW_CHECKS = (Detectors, EdgeCases)
"""The checks that examine each row separately; they take the most time."""
MAX_SINGLE_ROWS = 250_000
"""Approximate number of rows that these checks examine, in blocks at equal distances."""


def review(
    train: Sequence[Record],
    validation: Sequence[Record] = (),
    test: Sequence[Record] = (),
    *,
    checks: Sequence[Callable[[], Check]] = CHECKS,
    most_single_rows: int = MAX_SINGLE_ROWS,
) -> list[Finding]:
    """Return the findings of all checks, reading each record once."""
    running = [create() for create in checks]
    of_many_rows = [check for check in running if not isinstance(check, SINGLE_ROW_CHECKS)]
    parts: dict[Part, Sequence[Record]] = {"train": train, "validation": validation, "test": test}
    total = sum(map(len, parts.values()))
    step = max(1, total // most_single_rows)
    seen = 0
    for part, records in parts.items():
        for number, block in enumerate(read_blocks(records, part)):
            is_seen_by_all = number % step == 0  # so is the first block of each split
            seen += is_seen_by_all * len(block.rows)
            for check in running if is_seen_by_all else of_many_rows:
                check.add(block)
    found = [finding for check in running for finding in check.findings(train)]
    return [*found, *_report_sample(seen, total)] if step > 1 else found


def _report_sample(seen: int, total: int) -> Iterator[Finding]:
    """Yield a note that only a sample was searched for faults in single rows."""
    yield build_finding(
        "rows",
        "info",
        f"only {seen:,} of {total:,} rows, evenly spread, were searched for faults of single "
        "rows (text, personal data, copies, edge cases)",
        total - seen,
        hint=(
            "to check all rows, split the file and run `tunesmith data check PART.jsonl` on each "
            "part"
        ),
    )

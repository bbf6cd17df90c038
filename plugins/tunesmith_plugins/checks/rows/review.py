"""Run all checks of rows in one pass over the records."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tunesmith.contracts import Finding
from tunesmith.records import Record
from tunesmith_plugins.checks.rows.block import read_blocks
from tunesmith_plugins.checks.rows.check import Check
from tunesmith_plugins.checks.rows.copied_answers import COPIES
from tunesmith_plugins.checks.rows.detectors import Detectors
from tunesmith_plugins.checks.rows.duplicates import Duplicates
from tunesmith_plugins.checks.rows.edge_cases import EdgeCases
from tunesmith_plugins.checks.rows.json_answers import JsonAnswers
from tunesmith_plugins.checks.rows.labels import Labels
from tunesmith_plugins.checks.rows.lengths import Lengths
from tunesmith_plugins.checks.rows.personal_data import PERSONAL_DATA
from tunesmith_plugins.checks.rows.preference_pairs import PreferencePairs
from tunesmith_plugins.checks.rows.row import Part
from tunesmith_plugins.checks.rows.text_faults import TEXT_FAULTS


def row_faults() -> Detectors:
    """Create the checks that look at each row on its own."""
    return Detectors({"text": TEXT_FAULTS, "personal data": PERSONAL_DATA, "copies": COPIES})


CHECKS: tuple[Callable[[], Check], ...] = (
    Duplicates,
    Labels,
    JsonAnswers,
    Lengths,
    row_faults,
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
        for block in read_blocks(records, part):
            for check in running:
                check.add(block)
    return [finding for check in running for finding in check.findings(train)]

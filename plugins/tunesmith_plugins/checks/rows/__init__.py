"""Check ``rows``: look for faults in rows, all in one pass over the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tunesmith.hookspecs import hookimpl

if TYPE_CHECKING:
    from tunesmith.contracts import Finding
    from tunesmith.records import Record

NEEDS = ("numpy>=1.26",)


@hookimpl
def tunesmith_review_data(
    train: Sequence[Record], validation: Sequence[Record], test: Sequence[Record]
) -> Sequence[Finding]:
    """Look for duplicates, contradictions and other faults of rows."""
    from tunesmith_plugins.checks.rows.review import review

    return review(train, validation, test)

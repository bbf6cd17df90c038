"""Check ``leaks``: warn of held-out rows that equal, or nearly equal, a training row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tunesmith.hookspecs import hookimpl

if TYPE_CHECKING:
    from tunesmith.contracts import Finding
    from tunesmith.records import Record


@hookimpl
def tunesmith_review_data(train: Sequence[Record], heldout: Sequence[Record]) -> Sequence[Finding]:
    """Compare the held-out rows with the training rows."""
    from tunesmith_plugins.checks.leaks.review import review

    return review(train, heldout)

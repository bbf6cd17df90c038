"""Check ``leaks``: find held-out and dev rows that training rows, or their prompts, give away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tunesmith.hookspecs import hookimpl

if TYPE_CHECKING:
    from tunesmith.contracts import Dataset, Finding
    from tunesmith.records import Record


@hookimpl
def tunesmith_review_data(
    dataset: Dataset, train: Sequence[Record], dev: Sequence[Record], heldout: Sequence[Record]
) -> Sequence[Finding]:
    """Compare the parts of the data with each other."""
    from tunesmith_plugins.checks.leaks.review import review

    parts = {"dev": dataset.dev, "held-out": dataset.heldout}
    given = [name for name, part in parts.items() if part is not None]
    return review(train, dev, heldout, given=given)

"""Check ``leaks``: find test and validation rows that training rows or prompts give away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tunesmith.hookspecs import hookimpl

if TYPE_CHECKING:
    from tunesmith.contracts import Dataset, Finding
    from tunesmith.records import Record

NEEDS = ("numpy>=1.26",)


@hookimpl
def tunesmith_review_data(
    dataset: Dataset, train: Sequence[Record], validation: Sequence[Record], test: Sequence[Record]
) -> Sequence[Finding]:
    """Compare the parts of the data with each other."""
    from tunesmith_plugins.checks.leaks.review import review

    parts = {"validation_size": dataset.validation, "test": dataset.test}
    given = [name for name, part in parts.items() if part is not None]
    return review(train, validation, test, given=given)

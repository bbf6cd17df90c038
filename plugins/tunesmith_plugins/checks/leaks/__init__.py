"""The ``leaks`` check: find test and validation rows whose answers other rows give away."""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.contracts import Dataset, Finding
from tunesmith.records import Record
from tunesmith_plugins.checks.leaks import review

NEEDS = ("numpy>=1.26",)


def review_data(
    dataset: Dataset, train: Sequence[Record], validation: Sequence[Record], test: Sequence[Record]
) -> list[Finding]:
    """Return findings about leaks between the training, validation and test rows."""
    parts = {"validation": dataset.validation, "test": dataset.test}
    given = [name for name, part in parts.items() if part is not None]
    return review.review(train, validation, test, given=given)

"""The ``leaks`` check: find test and validation rows whose answers other rows give away."""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.contracts import Dataset, Finding
from tunesmith.plan import Plan
from tunesmith.records import Record
from tunesmith_plugins.checks.leaks import review

NEEDS = ("numpy>=1.26",)


def review_data(
    dataset: Dataset,
    train: Sequence[Record],
    validation: Sequence[Record],
    test: Sequence[Record],
    plan: Plan | None = None,
) -> list[Finding]:
    """Return findings about leaks between the training, validation and test rows."""
    parts = {"validation": dataset.validation, "test": dataset.test}
    given = [name for name, part in parts.items() if part is not None]

    def divides_groups(are_given: bool) -> bool:
        if plan is None:
            return False
        by_splitter = plan.split.offer.divides_groups and not are_given
        return by_splitter or plan.technique.offer.divides_groups

    return review.review(train, validation, test, given=given, divides_groups=divides_groups)

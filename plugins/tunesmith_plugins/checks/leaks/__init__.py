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
    divided_by: review.DividedBy = "nothing"
    if plan is not None and plan.technique.offer.divides_groups:
        divided_by = "technique"
    elif plan is not None and plan.split.offer.divides_groups:
        divided_by = "splitter"
    return review.review(train, validation, test, given=given, divided_by=divided_by)

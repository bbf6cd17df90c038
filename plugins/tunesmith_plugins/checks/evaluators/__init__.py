"""Check ``evaluators``: refuse evaluators that cannot measure the test rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tunesmith.hookspecs import hookimpl

if TYPE_CHECKING:
    from tunesmith.contracts import Finding
    from tunesmith.plan import Plan
    from tunesmith.records import Record


@hookimpl
def tunesmith_review_data(plan: Plan, test: Sequence[Record]) -> Sequence[Finding]:
    """Compare the kinds of the test rows with those that each evaluator measures."""
    from tunesmith_plugins.checks.evaluators.review import review

    return list(review(plan, test))

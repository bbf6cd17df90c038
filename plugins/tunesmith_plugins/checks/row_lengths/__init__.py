"""Check ``row-lengths``: refuse rows that are too long to be trained on, or to be evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tunesmith.hookspecs import hookimpl

if TYPE_CHECKING:
    from tunesmith.contracts import Finding
    from tunesmith.plan import Plan
    from tunesmith.records import Record


@hookimpl
def tunesmith_review_data(
    plan: Plan, train: Sequence[Record], heldout: Sequence[Record]
) -> Sequence[Finding]:
    """Tokenize the longest rows, and compare them with the limits of the run and the model."""
    from tunesmith_plugins.checks.row_lengths.answers import review_answers
    from tunesmith_plugins.checks.row_lengths.review import review

    return [*review(plan, train, heldout), *review_answers(plan, heldout)]

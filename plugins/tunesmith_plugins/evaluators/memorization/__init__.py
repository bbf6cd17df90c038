"""Evaluator ``memorization``: training rows that a tuned model reproduces, test as control."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.hookspecs import hookimpl

if TYPE_CHECKING:
    from tunesmith.contracts import Finding
    from tunesmith.offers import EvaluatorOffer
    from tunesmith.plan import Plan
    from tunesmith.records import Record


@hookimpl
def tunesmith_evaluators() -> Sequence[EvaluatorOffer[Any]]:
    """Offer ``[[evaluators]] use = "memorization"``."""
    from tunesmith_plugins.evaluators.memorization.offer import MEMORISATION

    return [MEMORISATION]


@hookimpl
def tunesmith_review_data(
    plan: Plan, train: Sequence[Record], test: Sequence[Record]
) -> Sequence[Finding]:
    """Check that there are rows that can be memorized."""
    from tunesmith_plugins.evaluators.memorization.offer import review

    return list(review(plan, train, test))

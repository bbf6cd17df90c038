"""Evaluator ``win-rate``: how often a judge prefers the answer to another model's."""

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
    """Offer ``[[evaluators]] use = "win-rate"``."""
    from tunesmith_plugins.evaluators.win_rate.offer import WIN_RATE

    return [WIN_RATE]


@hookimpl
def tunesmith_review_data(plan: Plan, test: Sequence[Record]) -> Sequence[Finding]:
    """Check that the judge is none that the run trains on."""
    from tunesmith_plugins.evaluators.win_rate.review import review

    return list(review(plan, test))

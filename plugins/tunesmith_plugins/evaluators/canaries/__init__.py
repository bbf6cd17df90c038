"""Evaluator ``canaries``: the ranks of injected secrets among controls that were not injected."""

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
    """Offer ``[[evaluators]] use = "canaries"``."""
    from tunesmith_plugins.evaluators.canaries.offer import CANARIES

    return [CANARIES]


@hookimpl
def tunesmith_review_data(plan: Plan, train: Sequence[Record]) -> Sequence[Finding]:
    """Check that the canaries are among the training rows."""
    from tunesmith_plugins.evaluators.canaries.offer import review

    return list(review(plan, train))

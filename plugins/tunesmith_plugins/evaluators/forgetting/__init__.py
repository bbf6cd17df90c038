"""Evaluator ``forgetting``: how much worse a tuned model predicts general text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.hookspecs import hookimpl

if TYPE_CHECKING:
    from tunesmith.contracts import Finding
    from tunesmith.offers import EvaluatorOffer
    from tunesmith.plan import Plan


@hookimpl
def tunesmith_evaluators() -> Sequence[EvaluatorOffer[Any]]:
    """Offer ``[[evaluators]] use = "forgetting"``."""
    from tunesmith_plugins.evaluators.forgetting.offer import FORGETTING

    return [FORGETTING]


@hookimpl
def tunesmith_review_plan(plan: Plan) -> Sequence[Finding]:
    """Check the file of texts before anything is trained."""
    from tunesmith_plugins.evaluators.forgetting.offer import review

    return list(review(plan))

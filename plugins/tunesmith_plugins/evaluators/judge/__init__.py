"""Evaluator ``judge``: a language model prefers the answer to another model's, in both orders."""

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
    """Offer ``[[evaluators]] use = "judge"``."""
    from tunesmith_plugins.evaluators.judge.offer import JUDGE

    return [JUDGE]


@hookimpl
def tunesmith_review_plan(plan: Plan) -> Sequence[Finding]:
    """Check the token of the endpoint, and say where rows are sent."""
    from tunesmith_plugins.evaluators.judge.offer import review

    return list(review(plan))

"""Evaluator ``safety``: harmful prompts that a tuned model answers, and its base did not."""

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
    """Offer ``[[evaluators]] use = "safety"``."""
    from tunesmith_plugins.evaluators.safety.offer import SAFETY

    return [SAFETY]


@hookimpl
def tunesmith_review_plan(plan: Plan) -> Sequence[Finding]:
    """Check the file of prompts before anything is trained."""
    from tunesmith_plugins.evaluators.safety.offer import review

    return list(review(plan))

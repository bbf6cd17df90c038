"""Evaluator ``reward-margin``: how far training moved good answers away from bad ones."""

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
    """Offer ``[[evaluators]] use = "reward-margin"``."""
    from tunesmith_plugins.evaluators.reward_margin.offer import REWARD_MARGIN

    return [REWARD_MARGIN]


@hookimpl
def tunesmith_review_data(plan: Plan, test: Sequence[Record]) -> Sequence[Finding]:
    """Check that the test rows have good and bad answers to compare."""
    from tunesmith_plugins.evaluators.reward_margin.review import review

    return list(review(plan, test))

"""Evaluator ``preference-accuracy``: share of pairs whose chosen answer is likelier."""

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
    """Offer ``[[evaluators]] use = "preference-accuracy"``."""
    from tunesmith_plugins.evaluators.preference_accuracy.offer import PREFERENCE_ACCURACY

    return [PREFERENCE_ACCURACY]


@hookimpl
def tunesmith_review_data(plan: Plan, test: Sequence[Record]) -> Sequence[Finding]:
    """Warn if length alone tells which answer of the test pairs was chosen."""
    from tunesmith_plugins.evaluators.preference_accuracy.review import review

    return list(review(plan, test))

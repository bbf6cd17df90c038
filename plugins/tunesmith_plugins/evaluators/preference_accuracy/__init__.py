"""Evaluator ``preference-accuracy``: share of pairs whose chosen answer is likelier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.hookspecs import hookimpl

if TYPE_CHECKING:
    from tunesmith.offers import EvaluatorOffer


@hookimpl
def tunesmith_evaluators() -> Sequence[EvaluatorOffer[Any]]:
    """Offer ``[[evaluators]] use = "preference-accuracy"``."""
    from tunesmith_plugins.evaluators.preference_accuracy.offer import PREFERENCE_ACCURACY

    return [PREFERENCE_ACCURACY]

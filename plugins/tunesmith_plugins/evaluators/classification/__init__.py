"""Evaluator ``classification``: accuracy and macro F1 of answers that are labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.hookspecs import hookimpl

if TYPE_CHECKING:
    from tunesmith.offers import EvaluatorOffer


@hookimpl
def tunesmith_evaluators() -> Sequence[EvaluatorOffer[Any]]:
    """Offer ``[[evaluators]] use = "classification"``."""
    from tunesmith_plugins.evaluators.classification.offer import CLASSIFICATION

    return [CLASSIFICATION]

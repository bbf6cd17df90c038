"""Evaluator ``text-overlap``: chrF, BLEU and ROUGE-L of answers against the references."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.hookspecs import hookimpl

if TYPE_CHECKING:
    from tunesmith.offers import EvaluatorOffer


@hookimpl
def tunesmith_evaluators() -> Sequence[EvaluatorOffer[Any]]:
    """Offer ``[[evaluators]] use = "text-overlap"``."""
    from tunesmith_plugins.evaluators.text_overlap.offer import TEXT_OVERLAP

    return [TEXT_OVERLAP]

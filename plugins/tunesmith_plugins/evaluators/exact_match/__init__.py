"""Evaluator ``exact-match``: share of answers that equal the reference answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.hookspecs import hookimpl

if TYPE_CHECKING:
    from tunesmith.offers import EvaluatorOffer


@hookimpl
def tunesmith_evaluators() -> Sequence[EvaluatorOffer[Any]]:
    """Offer ``[[evaluators]] use = "exact-match"``."""
    from tunesmith_plugins.evaluators.exact_match.offer import EXACT_MATCH

    return [EXACT_MATCH]

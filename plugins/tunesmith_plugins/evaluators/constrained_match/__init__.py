"""Evaluator ``constrained-match``: share of records whose most probable label is right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.hookspecs import hookimpl

if TYPE_CHECKING:
    from tunesmith.offers import EvaluatorOffer


@hookimpl
def tunesmith_evaluators() -> Sequence[EvaluatorOffer[Any]]:
    """Offer ``[[evaluators]] use = "constrained-match"``."""
    from tunesmith_plugins.evaluators.constrained_match.offer import CONSTRAINED_MATCH

    return [CONSTRAINED_MATCH]

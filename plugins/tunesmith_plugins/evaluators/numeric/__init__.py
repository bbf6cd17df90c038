"""Evaluator ``numeric``: share of answers that end with the right number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.hookspecs import hookimpl

if TYPE_CHECKING:
    from tunesmith.offers import EvaluatorOffer


@hookimpl
def tunesmith_evaluators() -> Sequence[EvaluatorOffer[Any]]:
    """Offer ``[[evaluators]] use = "numeric"``."""
    from tunesmith_plugins.evaluators.numeric.offer import NUMERIC

    return [NUMERIC]

"""Evaluator ``loss``: mean loss per token on the reference answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.hookspecs import hookimpl

if TYPE_CHECKING:
    from tunesmith.offers import EvaluatorOffer


@hookimpl
def tunesmith_evaluators() -> Sequence[EvaluatorOffer[Any]]:
    """Offer ``[[evaluators]] use = "loss"``."""
    from tunesmith_plugins.evaluators.loss.offer import LOSS

    return [LOSS]

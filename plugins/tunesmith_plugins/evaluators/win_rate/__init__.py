"""Evaluator ``win-rate``: how often a judge prefers the answer to another model's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.hookspecs import hookimpl

if TYPE_CHECKING:
    from tunesmith.offers import EvaluatorOffer


@hookimpl
def tunesmith_evaluators() -> Sequence[EvaluatorOffer[Any]]:
    """Offer ``[[evaluators]] use = "win-rate"``."""
    from tunesmith_plugins.evaluators.win_rate.offer import WIN_RATE

    return [WIN_RATE]

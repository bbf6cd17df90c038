"""Evaluator ``kl``: KL divergence of a model from another one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.hookspecs import hookimpl

if TYPE_CHECKING:
    from tunesmith.offers import EvaluatorOffer


@hookimpl
def tunesmith_evaluators() -> Sequence[EvaluatorOffer[Any]]:
    """Offer ``[[evaluators]] use = "kl"``."""
    from tunesmith_plugins.evaluators.kl.offer import KL

    return [KL]

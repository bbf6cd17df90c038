"""Evaluator ``repeatability``: the noise floor, by a second pass over the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.hookspecs import hookimpl

if TYPE_CHECKING:
    from tunesmith.offers import EvaluatorOffer


@hookimpl
def tunesmith_evaluators() -> Sequence[EvaluatorOffer[Any]]:
    """Offer ``[[evaluators]] use = "repeatability"``."""
    from tunesmith_plugins.evaluators.repeatability.offer import REPEATABILITY

    return [REPEATABILITY]

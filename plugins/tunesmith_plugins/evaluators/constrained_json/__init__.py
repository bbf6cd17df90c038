"""Evaluator ``constrained-json``: answers that must be JSON objects like those of the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.hookspecs import hookimpl

if TYPE_CHECKING:
    from tunesmith.offers import EvaluatorOffer


@hookimpl
def tunesmith_evaluators() -> Sequence[EvaluatorOffer[Any]]:
    """Offer ``[[evaluators]] use = "constrained-json"``."""
    from tunesmith_plugins.evaluators.constrained_json.offer import CONSTRAINED_JSON

    return [CONSTRAINED_JSON]

"""Evaluator ``json``: fields, validity and schema of answers that are JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.hookspecs import hookimpl

if TYPE_CHECKING:
    from tunesmith.offers import EvaluatorOffer


@hookimpl
def tunesmith_evaluators() -> Sequence[EvaluatorOffer[Any]]:
    """Offer ``[[evaluators]] use = "json"``."""
    from tunesmith_plugins.evaluators.json_answer.offer import JSON_ANSWER

    return [JSON_ANSWER]

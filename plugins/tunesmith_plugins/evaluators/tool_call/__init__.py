"""Evaluator ``tool-call``: share of answers that call the right tools with the right arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.hookspecs import hookimpl

if TYPE_CHECKING:
    from tunesmith.offers import EvaluatorOffer


@hookimpl
def tunesmith_evaluators() -> Sequence[EvaluatorOffer[Any]]:
    """Offer ``[[evaluators]] use = "tool-call"``."""
    from tunesmith_plugins.evaluators.tool_call.offer import TOOL_CALL

    return [TOOL_CALL]

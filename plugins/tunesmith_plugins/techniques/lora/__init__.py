"""Technique ``lora``: low-rank adapters on frozen base weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.hookspecs import hookimpl

if TYPE_CHECKING:
    from tunesmith.contracts import Finding
    from tunesmith.offers import TechniqueOffer
    from tunesmith.plan import Plan


@hookimpl
def tunesmith_techniques() -> Sequence[TechniqueOffer[Any]]:
    """Offer ``lora``."""
    from tunesmith_plugins.techniques.lora.offer import LORA

    return [LORA]


@hookimpl
def tunesmith_review_plan(plan: Plan) -> Sequence[Finding]:
    """Warn about values with which hardly anything is learned."""
    from tunesmith_plugins.techniques.lora.offer import review_plan

    return review_plan(plan)

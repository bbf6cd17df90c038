"""Technique ``full``: supervised fine-tuning of every weight."""

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
    """Offer ``full``."""
    from tunesmith_plugins.techniques.full.offer import FULL

    return [FULL]


@hookimpl
def tunesmith_review_plan(plan: Plan) -> Sequence[Finding]:
    """Warn about a learning rate that suits adapters."""
    from tunesmith_plugins.techniques.full.offer import review_plan

    return review_plan(plan)

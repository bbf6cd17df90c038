"""Technique ``rlhf``: supervised fine-tuning, a reward model, then policy optimization."""

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
    """Offer ``rlhf``."""
    from tunesmith_plugins.techniques.rlhf.offer import RLHF

    return [RLHF]


@hookimpl
def tunesmith_review_plan(plan: Plan) -> Sequence[Finding]:
    """Warn about settings that weaken the gates."""
    from tunesmith_plugins.techniques.rlhf.offer import review_plan

    return review_plan(plan)

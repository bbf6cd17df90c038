"""Technique ``trl-grpo``: GRPO on the trainer of TRL."""

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
    """Offer ``trl-grpo``."""
    from tunesmith_trl.offer import GRPO

    return [GRPO]


@hookimpl
def tunesmith_review_plan(plan: Plan) -> Sequence[Finding]:
    """Check the libraries and the device of the optimizer and of vLLM."""
    from tunesmith_trl.offer import GRPO, review_plan

    return review_plan(plan, GRPO)

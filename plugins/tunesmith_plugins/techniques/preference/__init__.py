"""Technique ``preference``: direct optimization on preferences (DPO, KTO and relatives)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.hookspecs import hookimpl

if TYPE_CHECKING:
    from tunesmith.contracts import Finding
    from tunesmith.offers import TechniqueOffer
    from tunesmith.plan import Plan
    from tunesmith.records import Record


@hookimpl
def tunesmith_techniques() -> Sequence[TechniqueOffer[Any]]:
    """Offer ``preference``."""
    from tunesmith_plugins.techniques.preference.offer import PREFERENCE

    return [PREFERENCE]


@hookimpl
def tunesmith_review_data(plan: Plan, train: Sequence[Record]) -> Sequence[Finding]:
    """Check that the loss can learn from the labels of the rows."""
    from tunesmith_plugins.techniques.preference.review import review_labels

    return list(review_labels(plan, train))

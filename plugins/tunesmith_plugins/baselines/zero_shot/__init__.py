"""Baseline ``zero-shot``: the untouched model with instructions alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.hookspecs import hookimpl

if TYPE_CHECKING:
    from tunesmith.contracts import Finding
    from tunesmith.offers import BaselineOffer
    from tunesmith.plan import Plan
    from tunesmith.records import Record


@hookimpl
def tunesmith_baselines() -> Sequence[BaselineOffer[Any]]:
    """Offer ``[baselines] use = ["zero-shot"]``."""
    from tunesmith_plugins.baselines.zero_shot.offer import ZERO_SHOT

    return [ZERO_SHOT]


@hookimpl
def tunesmith_review_data(plan: Plan, train: Sequence[Record]) -> Sequence[Finding]:
    """Note that JSON answers are not constrained if the library for it is missing."""
    from tunesmith_plugins.baselines.zero_shot.review import review

    return list(review(plan, train))

"""Baseline ``best-of-n``: the sampled answer of the untouched model with the highest reward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.hookspecs import hookimpl

if TYPE_CHECKING:
    from tunesmith.contracts import Finding
    from tunesmith.offers import BaselineOffer
    from tunesmith.plan import Plan


@hookimpl
def tunesmith_baselines() -> Sequence[BaselineOffer[Any]]:
    """Offer ``[baselines] use = ["best-of-n"]``."""
    from tunesmith_plugins.baselines.best_of_n.offer import BEST_OF_N

    return [BEST_OF_N]


@hookimpl
def tunesmith_review_plan(plan: Plan) -> Sequence[Finding]:
    """Check that the baseline has a reward, and that a run with rewards has the baseline."""
    from tunesmith_plugins.baselines.best_of_n.review import review

    return list(review(plan))

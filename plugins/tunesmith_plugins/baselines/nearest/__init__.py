"""Baseline ``nearest``: the answer of the most similar training rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.hookspecs import hookimpl

if TYPE_CHECKING:
    from tunesmith.offers import BaselineOffer


@hookimpl
def tunesmith_baselines() -> Sequence[BaselineOffer[Any]]:
    """Offer ``[baselines] use = ["nearest"]``."""
    from tunesmith_plugins.baselines.nearest.offer import NEAREST

    return [NEAREST]

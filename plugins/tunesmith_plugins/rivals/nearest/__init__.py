"""Rival ``nearest``: the answer of the most similar training rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.hookspecs import hookimpl

if TYPE_CHECKING:
    from tunesmith.offers import RivalOffer


@hookimpl
def tunesmith_rivals() -> Sequence[RivalOffer[Any]]:
    """Offer ``[baselines] use = ["nearest"]``."""
    from tunesmith_plugins.rivals.nearest.offer import NEAREST

    return [NEAREST]

"""Rival ``linear``: a linear classifier of words and parts of words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.hookspecs import hookimpl

if TYPE_CHECKING:
    from tunesmith.offers import RivalOffer


@hookimpl
def tunesmith_rivals() -> Sequence[RivalOffer[Any]]:
    """Offer ``[baselines] use = ["linear"]``."""
    from tunesmith_plugins.rivals.linear.offer import LINEAR

    return [LINEAR]

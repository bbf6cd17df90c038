"""Baseline ``linear``: a linear classifier of words and parts of words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.hookspecs import hookimpl

if TYPE_CHECKING:
    from tunesmith.offers import BaselineOffer


@hookimpl
def tunesmith_baselines() -> Sequence[BaselineOffer[Any]]:
    """Offer ``[baselines] use = ["linear"]``."""
    from tunesmith_plugins.baselines.linear.offer import LINEAR

    return [LINEAR]

"""Rival ``zero-shot``: the untouched model with instructions alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.hookspecs import hookimpl

if TYPE_CHECKING:
    from tunesmith.offers import RivalOffer


@hookimpl
def tunesmith_rivals() -> Sequence[RivalOffer[Any]]:
    """Offer ``[baselines] use = ["zero-shot"]``."""
    from tunesmith_plugins.rivals.zero_shot.offer import ZERO_SHOT

    return [ZERO_SHOT]

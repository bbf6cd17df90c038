"""Rival ``retrieved-shots``: the most similar training rows in each prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.hookspecs import hookimpl

if TYPE_CHECKING:
    from tunesmith.offers import RivalOffer


@hookimpl
def tunesmith_rivals() -> Sequence[RivalOffer[Any]]:
    """Offer ``[baselines] use = ["retrieved-shots"]``."""
    from tunesmith_plugins.rivals.retrieved_shots.offer import RETRIEVED_SHOTS

    return [RETRIEVED_SHOTS]

"""Rival ``random-shots``: worked examples, drawn at random, in the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.hookspecs import hookimpl

if TYPE_CHECKING:
    from tunesmith.offers import RivalOffer


@hookimpl
def tunesmith_rivals() -> Sequence[RivalOffer[Any]]:
    """Offer ``[baselines] use = ["random-shots"]``."""
    from tunesmith_plugins.rivals.random_shots.offer import RANDOM_SHOTS

    return [RANDOM_SHOTS]

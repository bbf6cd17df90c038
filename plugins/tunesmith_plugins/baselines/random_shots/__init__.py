"""Baseline ``random-shots``: worked examples, drawn at random, in the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.hookspecs import hookimpl

if TYPE_CHECKING:
    from tunesmith.offers import BaselineOffer


@hookimpl
def tunesmith_baselines() -> Sequence[BaselineOffer[Any]]:
    """Offer ``[baselines] use = ["random-shots"]``."""
    from tunesmith_plugins.baselines.random_shots.offer import RANDOM_SHOTS

    return [RANDOM_SHOTS]

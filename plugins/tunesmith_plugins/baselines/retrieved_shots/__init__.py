"""Baseline ``retrieved-shots``: the most similar training rows in each prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.hookspecs import hookimpl

if TYPE_CHECKING:
    from tunesmith.offers import BaselineOffer


@hookimpl
def tunesmith_baselines() -> Sequence[BaselineOffer[Any]]:
    """Offer ``[baselines] use = ["retrieved-shots"]``."""
    from tunesmith_plugins.baselines.retrieved_shots.offer import RETRIEVED_SHOTS

    return [RETRIEVED_SHOTS]

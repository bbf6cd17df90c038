"""Baseline ``prompt``: the untouched model with prompts of the user."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.hookspecs import hookimpl

if TYPE_CHECKING:
    from tunesmith.offers import BaselineOffer


@hookimpl
def tunesmith_baselines() -> Sequence[BaselineOffer[Any]]:
    """Offer ``[baselines] use = ["prompt"]``."""
    from tunesmith_plugins.baselines.prompt.offer import PROMPT

    return [PROMPT]

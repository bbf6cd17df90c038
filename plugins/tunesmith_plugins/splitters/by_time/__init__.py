"""Splitter ``by-time``: the newest rows are held out, as a model in use meets them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.hookspecs import hookimpl

if TYPE_CHECKING:
    from tunesmith.offers import SplitterOffer


@hookimpl
def tunesmith_splitters() -> Sequence[SplitterOffer[Any]]:
    """Offer ``[split] use = "by-time"``."""
    from tunesmith_plugins.splitters.by_time.offer import BY_TIME

    return [BY_TIME]

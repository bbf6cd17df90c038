"""Splitter ``grouped``: rows with similar prompts, or of one group, are in the same part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.hookspecs import hookimpl

if TYPE_CHECKING:
    from tunesmith.offers import SplitterOffer


@hookimpl
def tunesmith_splitters() -> Sequence[SplitterOffer[Any]]:
    """Offer ``[split] use = "grouped"``."""
    from tunesmith_plugins.splitters.grouped.offer import GROUPED

    return [GROUPED]

"""Data loader ``jsonl``: JSON Lines or a JSON array, also packed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.hookspecs import hookimpl

if TYPE_CHECKING:
    from tunesmith.offers import DataLoaderOffer


@hookimpl
def tunesmith_data_loaders() -> Sequence[DataLoaderOffer[Any]]:
    """Offer ``[data] use = "jsonl"``."""
    from tunesmith_plugins.loaders.jsonl.offer import JSONL

    return [JSONL]

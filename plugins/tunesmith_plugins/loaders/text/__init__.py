"""Data loader ``text``: files and folders of text, source code, PDF and Word documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.hookspecs import hookimpl

if TYPE_CHECKING:
    from tunesmith.offers import DataLoaderOffer


@hookimpl
def tunesmith_data_loaders() -> Sequence[DataLoaderOffer[Any]]:
    """Offer ``[data] use = "text"``."""
    from tunesmith_plugins.loaders.text.offer import TEXT

    return [TEXT]

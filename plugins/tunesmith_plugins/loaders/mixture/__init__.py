"""Data loader ``mixture``: several sources of data, each with its share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.hookspecs import hookimpl

if TYPE_CHECKING:
    from tunesmith.offers import DataLoaderOffer


@hookimpl
def tunesmith_data_loaders() -> Sequence[DataLoaderOffer[Any]]:
    """Offer ``[data] use = "mixture"``."""
    from tunesmith_plugins.loaders.mixture.offer import MIXTURE

    return [MIXTURE]

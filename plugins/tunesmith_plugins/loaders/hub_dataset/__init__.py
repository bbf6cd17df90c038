"""Data loader ``hub-dataset``: a dataset of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.hookspecs import hookimpl

if TYPE_CHECKING:
    from tunesmith.offers import DataLoaderOffer


@hookimpl
def tunesmith_data_loaders() -> Sequence[DataLoaderOffer[Any]]:
    """Offer ``[data] use = "hub-dataset"``."""
    from tunesmith_plugins.loaders.hub_dataset.offer import HUB_DATASET

    return [HUB_DATASET]

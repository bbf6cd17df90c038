"""Offer of ``hub-dataset``: its summary and its factory."""

from __future__ import annotations

from tunesmith.contracts import DataLoader
from tunesmith.offers import DataLoaderOffer
from tunesmith_plugins.loaders.hub_dataset.options import HubDatasetOptions

SCHEME = "hf://"


def build(options: HubDatasetOptions) -> DataLoader:
    """Build the loader of a dataset."""
    from tunesmith_data import require_library
    from tunesmith_plugins.loaders.hub_dataset.loader import HubDatasetLoader

    require_library("datasets", "data loader hub-dataset", extra="hub")
    return HubDatasetLoader(options)


def recognizes(name: str) -> bool:
    """Return True for the address of a dataset."""
    return name.startswith(SCHEME)


HUB_DATASET = DataLoaderOffer(
    name="hub-dataset",
    summary="a dataset of the Hugging Face hub, read as a stream",
    config=HubDatasetOptions,
    build=build,
    needs=("datasets>=3",),
    recognizes=recognizes,
)

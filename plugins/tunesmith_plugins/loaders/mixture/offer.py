"""Offer of ``mixture``: its summary and its factory."""

from __future__ import annotations

from tunesmith.contracts import DataLoader
from tunesmith.offers import DataLoaderOffer
from tunesmith_plugins.loaders.mixture.options import MixtureOptions


def build(options: MixtureOptions) -> DataLoader:
    """Build the loader of all sources."""
    from tunesmith_plugins.loaders.mixture.loader import MixtureLoader, build_sources

    return MixtureLoader(options, build_sources(options))


MIXTURE = DataLoaderOffer(
    name="mixture",
    summary="several sources, each read by another data loader, with exact shares",
    config=MixtureOptions,
    build=build,
)

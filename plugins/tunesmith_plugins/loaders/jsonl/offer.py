"""Offer of ``jsonl``: its options and its factory."""

from __future__ import annotations

from functools import partial

from tunesmith.contracts import DataLoader
from tunesmith.offers import DataLoaderOffer
from tunesmith_data import RowLoader, RowOptions
from tunesmith_plugins.loaders.jsonl.reader import read_rows


class JsonlOptions(RowOptions):
    """Options of ``jsonl``: those that all row loaders share."""


def build(options: JsonlOptions) -> DataLoader:
    """Build the loader for the files that the options name."""
    return RowLoader(options, partial(read_rows, max_row_bytes=options.max_row_bytes))


JSONL = DataLoaderOffer(
    name="jsonl",
    summary="JSON Lines or a JSON array, also gzipped; the format of the rows is detected",
    config=JsonlOptions,
    build=build,
)

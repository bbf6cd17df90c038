"""The offer: options of ``[data] use = "jsonl"`` and how its loader is built."""

from __future__ import annotations

from functools import partial

from tunesmith.contracts import DataLoader
from tunesmith.offers import DataLoaderOffer
from tunesmith_data import RowLoader, RowOptions
from tunesmith_plugins.loaders.jsonl.reader import read_rows


class JsonlOptions(RowOptions):
    """Options of the ``jsonl`` loader: those of every loader of rows."""


def build(options: JsonlOptions) -> DataLoader:
    """A loader for the files that the options name."""
    return RowLoader(options, partial(read_rows, max_row_bytes=options.max_row_bytes))


JSONL = DataLoaderOffer(
    name="jsonl",
    summary="JSON Lines or a JSON array, also gzipped; the format of the rows is detected",
    config=JsonlOptions,
    build=build,
)

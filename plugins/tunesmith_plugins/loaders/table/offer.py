"""The offer: options of ``[data] use = "table"`` and how its loader is built."""

from __future__ import annotations

from functools import partial

from pydantic import Field

from tunesmith.contracts import DataLoader
from tunesmith.offers import DataLoaderOffer
from tunesmith_data import RowLoader, RowOptions
from tunesmith_plugins.loaders.table.reader import read_rows


class TableOptions(RowOptions):
    """Options of the ``table`` loader: those of every loader of rows, and the delimiter."""

    delimiter: str = Field(
        "auto",
        pattern=r'^(auto|[^"\r\n])$',
        description="What stands between two columns; auto takes it from the header line.",
    )


def build(options: TableOptions) -> DataLoader:
    """A loader for the files that the options name."""
    read = partial(read_rows, delimiter=options.delimiter, max_row_bytes=options.max_row_bytes)
    return RowLoader(options, read)


TABLE = DataLoaderOffer(
    name="table",
    summary="CSV or TSV with a header line, also gzipped",
    config=TableOptions,
    build=build,
)

"""Options and factory of ``table``."""

from __future__ import annotations

from functools import partial

from pydantic import Field

from tunesmith.contracts import DataLoader
from tunesmith.offers import DataLoaderOffer
from tunesmith_data import RowLoader, RowOptions, names_file
from tunesmith_plugins.loaders.table.arrow import open_arrow
from tunesmith_plugins.loaders.table.reader import read_rows


class TableOptions(RowOptions):
    """Options of ``table``: the ones shared by all loaders of rows, and the delimiter."""

    delimiter: str = Field(
        "auto",
        pattern=r'^(auto|[^"\r\n])$',
        description="Character between columns; auto: detected from the header line.",
    )


def build(options: TableOptions) -> DataLoader:
    """Build the loader for the files that the options name."""
    reader = partial(read_rows, delimiter=options.delimiter, max_row_bytes=options.max_row_bytes)
    return RowLoader(options, reader, open_other=partial(open_arrow, options=options))


TABLE = DataLoaderOffer(
    name="table",
    summary="CSV or TSV with a header line, also compressed; Parquet and Arrow",
    config=TableOptions,
    build=build,
    recognizes=names_file(".csv", ".tsv", ".tab", ".parquet", ".arrow", ".feather"),
)

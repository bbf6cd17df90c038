"""Offer the ``table`` data loader, with its options."""

from __future__ import annotations

from functools import partial

from pydantic import Field

from tunesmith.contracts import DataLoader
from tunesmith.offers import DataLoaderOffer
from tunesmith_data import DataFile, RowLoader, RowOptions, RowSource, make_suffix_matcher
from tunesmith_plugins.loaders.table.arrow import open_arrow
from tunesmith_plugins.loaders.table.excel import open_excel
from tunesmith_plugins.loaders.table.reader import read_rows


class TableOptions(RowOptions):
    """Options of ``table``: those that all data loaders of rows share, and the delimiter."""

    delimiter: str = Field(
        "auto",
        pattern=r'^(auto|[^"\r\n])$',
        description="Character between columns; auto: detect it from the header line.",
    )
    sheet: str | None = Field(
        None,
        min_length=1,
        description="Sheet of an Excel workbook. Unset: the only sheet that contains data.",
    )


def build(options: TableOptions) -> DataLoader:
    """Create the data loader from its options."""
    reader = partial(read_rows, delimiter=options.delimiter, max_row_bytes=options.max_row_bytes)
    return RowLoader(options, reader, open_other=partial(_open_other, options=options))


def _open_other(file: DataFile, *, options: TableOptions) -> RowSource | None:
    arrow = open_arrow(file, options=options)
    return arrow or open_excel(file, options=options, sheet=options.sheet)


TABLE = DataLoaderOffer(
    name="table",
    summary="CSV or TSV with a header line, also compressed; Excel, Parquet and Arrow",
    config=TableOptions,
    build=build,
    recognizes=make_suffix_matcher(
        ".csv", ".tsv", ".tab", ".xlsx", ".xlsm", ".xls", ".parquet", ".arrow", ".feather"
    ),
)

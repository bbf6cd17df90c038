"""Rows into records: what every loader of row-shaped files shares.

A loader brings a function that reads one open file row by row, and gets globs, gzip, format
detection, checks, and an account of every row that could not be used::

    loader = RowLoader(options, read)     # read(stream, name) yields Row(line, fields or Fault)
    dataset = loader.load()
"""

from tunesmith_data.load import RowLoader
from tunesmith_data.options import RowOptions
from tunesmith_data.row import (
    ByteStream,
    Fault,
    ReadRows,
    Row,
    excerpt,
    kind_of,
    not_utf8,
)

__all__ = [
    "ByteStream",
    "Fault",
    "ReadRows",
    "Row",
    "RowLoader",
    "RowOptions",
    "excerpt",
    "kind_of",
    "not_utf8",
]

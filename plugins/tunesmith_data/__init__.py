"""Toolkit for data loaders: turn files of rows into records.

A loader only has to read the rows of one open file. :class:`RowLoader` does the rest. It finds
files by name or pattern, unpacks gzip, and detects the format from the columns. It builds and
checks the records, and counts every row that cannot be used. This plugin loads files with a
question, a tab and an answer on each line::

    from tunesmith.hookspecs import hookimpl
    from tunesmith.offers import DataLoaderOffer
    from tunesmith_data import Row, RowError, RowLoader, RowOptions

    class TabOptions(RowOptions):
        '''Options of ``tabs``: those that all row loaders share.'''

    def read_rows(stream, name):  # a line that is not UTF-8: see not_utf8_error
        for number, line in enumerate(stream, start=1):
            question, tab, answer = line.decode().rstrip("\\n").partition("\\t")
            fields = {"prompt": question, "completion": answer}
            yield Row(number, fields if tab else RowError("no tab in the line", question))

    TABS = DataLoaderOffer(
        name="tabs",
        summary="lines with a question, a tab and an answer",
        config=TabOptions,
        build=lambda options: RowLoader(options, read_rows),
    )

    @hookimpl
    def tunesmith_data_loaders():
        return [TABS]

A row whose columns are named like the fields of a format (``prompt`` and ``completion``,
``messages``, ``chosen`` and ``rejected``, ...) becomes a record of that kind. Users map other
column names with ``columns`` in the run file.

The names below are the public interface. Loaders of JSON also need :func:`parse_row`, which parses
one untrusted JSON object. Code that reads single values needs :func:`require_text` and
:func:`parse_messages`, which apply the same checks as :class:`RowLoader`.
"""

from tunesmith_data.files import (
    DataFile,
    find_files,
    find_offline_variable,
    make_suffix_matcher,
    open_data_file,
    require_library,
)
from tunesmith_data.json_line import is_multi_line, parse_row, reparse_row
from tunesmith_data.json_rows import read_json_rows
from tunesmith_data.load import (
    MAX_BYTES_IN_MEMORY,
    RowLoader,
    RowSource,
    RowStore,
    SourceLoader,
    load_sources,
    refuse_shared_files,
)
from tunesmith_data.message import parse_messages
from tunesmith_data.options import FieldOptions, RowOptions
from tunesmith_data.row import (
    ByteStream,
    Fields,
    FileRange,
    ReadRows,
    Row,
    RowError,
    RowSpan,
    excerpt,
    json_type,
    not_utf8_error,
)
from tunesmith_data.stored import StoredBytes
from tunesmith_data.stored_records import LazyRecords
from tunesmith_data.text import MEDIA_SIGNS, UNUSABLE_CHARACTERS, require_text
from tunesmith_data.typed_row import to_json_fields

__all__ = [
    "MAX_BYTES_IN_MEMORY",
    "MEDIA_SIGNS",
    "UNUSABLE_CHARACTERS",
    "ByteStream",
    "DataFile",
    "FieldOptions",
    "Fields",
    "FileRange",
    "LazyRecords",
    "ReadRows",
    "Row",
    "RowError",
    "RowLoader",
    "RowOptions",
    "RowSource",
    "RowSpan",
    "RowStore",
    "SourceLoader",
    "StoredBytes",
    "excerpt",
    "find_files",
    "find_offline_variable",
    "is_multi_line",
    "json_type",
    "load_sources",
    "make_suffix_matcher",
    "not_utf8_error",
    "open_data_file",
    "parse_messages",
    "parse_row",
    "read_json_rows",
    "refuse_shared_files",
    "reparse_row",
    "require_library",
    "require_text",
    "to_json_fields",
]

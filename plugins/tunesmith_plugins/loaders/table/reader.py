"""Read rows from a CSV or TSV file. Every value is the unchanged text of the file."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from tunesmith.errors import DataError
from tunesmith_data import ByteStream, Row, RowError, not_utf8_error

DELIMITERS = ",;\t|"
"""Delimiters that are detected, in the order of preference."""


def read_rows(
    stream: ByteStream, name: str, *, delimiter: str, max_row_bytes: int
) -> Iterator[Row]:
    """Yield the rows below the header line; a row that cannot be parsed has a fault.

    Raises:
        DataError: the header is unclear, or a quote or field never ends.
    """
    # Bytes that are not UTF-8 become lone surrogates here, and a fault of their row in _to_fields.
    text = io.TextIOWrapper(stream, encoding="utf-8", errors="surrogateescape", newline="")
    try:
        yield from _parse_rows(_read_lines(text, name, max_row_bytes), name, delimiter)
    finally:
        text.detach()  # the caller owns the stream and checks it afterwards


def _parse_rows(lines: Iterator[str], name: str, delimiter: str) -> Iterator[Row]:
    header_line = next(lines, "")
    if delimiter == "auto":
        delimiter = max(DELIMITERS, key=_remove_quoted(header_line).count)
    header = next(csv.reader([header_line], delimiter=delimiter), [])
    _check_header(header, name)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        start = reader.line_num + 2  # the header is line 1
        try:
            values = next(reader, None)
        except csv.Error as error:
            yield from _faults_of(error, name, start, reader.line_num + 1)
            continue
        if values is None:
            return
        if values:
            yield Row(start, _to_fields(values, header))


def _read_lines(text: io.TextIOWrapper, name: str, max_row_bytes: int) -> Iterator[str]:
    number = 0
    while line := text.readline(max_row_bytes + 1):
        number += 1
        if len(line) > max_row_bytes:
            message = f"line longer than max_row_bytes = {max_row_bytes:,}"
            raise DataError(f"{name}:{number}", message)
        yield line


def _remove_quoted(line: str) -> str:
    return "".join(line.split('"')[::2])


def _check_header(header: list[str], name: str) -> None:
    if not any(header):
        raise DataError(f"{name}:1", "has no header line with the names of its columns")
    for column in header:
        if column and header.count(column) > 1:
            raise DataError(f"{name}:1", f"two columns are named `{column}`")


def _faults_of(error: csv.Error, name: str, start: int, end: int) -> Iterator[Row]:
    """Yield a fault for every line of a broken row.

    Raises:
        DataError: the fault may span many rows, so the rest of the file cannot be trusted.
    """
    reason = str(error)
    if "unexpected end of data" in reason:
        hint = 'inside a quoted field write every quote twice: ""'
        raise DataError(f"{name}:{start}", "a quote opens here that is never closed", hint=hint)
    if "field limit" in reason:
        message = f"a field is longer than {csv.field_size_limit():,} characters"
        raise DataError(f"{name}:{start}", message, hint="use JSON Lines for texts of this length")
    for line in range(start, end + 1):
        yield Row(line, RowError("not CSV", reason))


def _to_fields(values: list[str], header: list[str]) -> dict[str, object] | RowError:
    if len(values) != len(header):
        detail = f"{len(values)} fields, the header has {len(header)}: {values[0]}"
        return RowError("more or fewer fields than the header", detail)
    for value in values:
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raw = value.encode(errors="surrogateescape")
            return not_utf8_error(raw, len(value[: error.start].encode()))
    return {column: value for column, value in zip(header, values, strict=True) if column}

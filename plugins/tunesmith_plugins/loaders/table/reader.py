"""Read rows from a CSV or TSV file. Values stay text and are never converted."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterator
from functools import partial
from itertools import chain

from tunesmith.errors import DataError
from tunesmith_data import ByteStream, Fields, Row, RowError, RowSpan, not_utf8_error

DELIMITERS = ",;\t|"
"""Delimiters that can be detected, in order of preference."""
EXCEL_DELIMITER = re.compile(r"sep=(.)\s*", re.IGNORECASE)
"""A first line such as ``sep=;``, where Excel declares the delimiter; the header follows."""


def read_rows(
    stream: ByteStream, name: str, *, delimiter: str, max_row_bytes: int
) -> Iterator[Row]:
    """Yield the rows below the header line, with an error for each row that cannot be parsed.

    Raises:
        DataError: the header is missing or ambiguous, a quote is never closed, or a line or field
            is too long.
    """
    lines = _Lines(stream, name, max_row_bytes)
    header_line = next(lines, "")
    if (excel := EXCEL_DELIMITER.fullmatch(header_line)) is not None:
        delimiter = excel[1] if delimiter == "auto" else delimiter
        header_line = next(lines, "")
    if delimiter == "auto":
        delimiter = max(DELIMITERS, key=_remove_quoted(header_line).count)
    header_number = lines.number or 1
    try:  # a column name may span several lines
        header = next(csv.reader(chain([header_line], lines), delimiter=delimiter), [])
    except csv.Error:
        message = "this line opens a quote that is never closed"
        raise DataError(f"{name}:{header_number}", message) from None
    check_header(header, f"{name}:{header_number}")
    parse = partial(_parse_again, header=header, delimiter=delimiter)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        start, offset = lines.number + 1, lines.end
        try:
            values = next(reader, None)
        except csv.Error as error:
            yield from _faults_of(error, name, start, lines.number)
            continue
        if values is None:
            return
        if values:
            span = RowSpan(offset, lines.end - offset, parse)
            yield Row(start, _to_fields(values, header), span)


def _parse_again(data: bytes, *, header: list[str], delimiter: str) -> Fields:
    """Return the fields of a row, after reading its raw bytes a second time."""
    text = data.decode("utf-8", "surrogateescape")
    lines = io.StringIO(text, newline="")
    values = next(csv.reader(lines, delimiter=delimiter, strict=True))
    fields = _to_fields(values, header)
    if isinstance(fields, RowError):
        raise fields
    return fields


class _Lines(Iterator[str]):
    """The lines of a file as text, with the number and end position of the last line read.

    Bytes that are not UTF-8 become lone surrogates, which ``_to_fields`` turns into an error.
    """

    def __init__(self, stream: ByteStream, name: str, max_row_bytes: int) -> None:
        self.number = 0
        self.end = stream.tell()
        self._stream = stream
        self._name = name
        self._limit = max_row_bytes
        self._ready: list[bytes] = []

    def __next__(self) -> str:
        if not self._ready:
            self._ready = self._read()
        if not self._ready:
            raise StopIteration
        line = self._ready.pop()
        self.number += 1
        self.end += len(line)
        if len(line) > self._limit:
            message = f"line is longer than max_row_bytes = {self._limit:,}"
            raise DataError(f"{self._name}:{self.number}", message)
        return line.decode("utf-8", "surrogateescape")

    def _read(self) -> list[bytes]:
        """Return the next lines in reverse order, several if they end in carriage returns."""
        data = self._stream.readline(self._limit + 1)
        lines = data.splitlines(keepends=True)
        if len(lines) > 1 and not data.endswith(b"\n"):
            self._stream.seek(-len(lines.pop()), os.SEEK_CUR)
        return lines[::-1]


def _remove_quoted(line: str) -> str:
    return "".join(line.split('"')[::2])


def check_header(header: list[str], where: str) -> None:
    """Raise an error unless the header names at least one column, and no two columns alike.

    Raises:
        DataError: the header is empty, is not UTF-8, or gives two columns the same name.
    """
    if (fault := _find_bad_byte(header)) is not None:
        raise DataError(where, f"{fault.cause}: {fault.detail}", hint=fault.hint)
    if not any(header):
        hint = "add a first line with the column names"
        raise DataError(where, "has no header line", hint=hint)
    for column in header:
        if column and header.count(column) > 1:
            hint = "rename one of the columns"
            raise DataError(where, f"two columns are named `{column}`", hint=hint)


def _faults_of(error: csv.Error, name: str, start: int, end: int) -> Iterator[Row]:
    """Yield an error for every line of a malformed row.

    Raises:
        DataError: the error may span many rows, so the rest of the file cannot be trusted.
    """
    reason = str(error)
    if "unexpected end of data" in reason:
        hint = 'inside a quoted field, double each quote: ""'
        message = "this line opens a quote that is never closed"
        raise DataError(f"{name}:{start}", message, hint=hint)
    if "field limit" in reason:
        message = f"a field has more than {csv.field_size_limit():,} characters"
        raise DataError(f"{name}:{start}", message, hint="use JSON Lines for texts of this length")
    for line in range(start, end + 1):
        yield Row(line, RowError("not CSV", reason))


def _to_fields(values: list[str], header: list[str]) -> dict[str, object] | RowError:
    if len(values) != len(header):
        detail = f"{len(values)} fields, but the header has {len(header)}: {values[0]}"
        return RowError(
            "a different number of fields than in the header",
            detail,
            hint="add the missing fields, put quotes around fields that contain the separator, or "
            "set `delimiter` in [data] if the columns have another separator",
        )
    if (fault := _find_bad_byte(values)) is not None:
        return fault
    return {column: value for column, value in zip(header, values, strict=True) if column}


def _find_bad_byte(values: list[str]) -> RowError | None:
    """Return an error about the first byte that is not UTF-8, or None if all bytes are."""
    for value in values:
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raw = value.encode(errors="surrogateescape")
            return not_utf8_error(raw, len(value[: error.start].encode()), "field")
    return None

"""Rows of a file, and the errors that make rows unusable."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, TypeAlias

from tunesmith.text import one_line, redact

Fields: TypeAlias = Mapping[str, object]
"""Maps column names to values, which have JSON types."""

DETAIL_LIMIT = 80
EXCERPT_INPUT_LIMIT = 1_000


class RowError(Exception):
    """Raised for a row that cannot be used.

    Args:
        cause: a fixed phrase, the same for all rows with this error.
        detail: what is wrong in this row.
        hint: how to fix rows with this error.
    """

    def __init__(self, cause: str, detail: str = "", *, hint: str = "") -> None:
        super().__init__(cause)
        self.cause = cause
        self.detail = excerpt(detail)
        self.hint = hint


Parse: TypeAlias = Callable[[bytes], Fields]
"""A function that parses a row's bytes again after they have been parsed once without errors."""


class RowSpan(NamedTuple):
    """The position of a row's bytes in its file, and how to parse them.

    Rows with a span are not kept in memory; they are read again on demand. Rows without a span are
    copied to a temporary file if there are too many to keep in memory.
    """

    offset: int
    size: int
    parse: Parse


class Row(NamedTuple):
    """A row, and the line that it starts on, counted from 1."""

    line: int
    fields: Fields | RowError
    span: RowSpan | None = None
    number: int = 0
    """Row number in the file, counted from 1; set if another row starts on the same line."""

    def place(self, name: str) -> str:
        """Return the row's place in the file ``name``, for messages and ``Record.source``."""
        return format_row_place(name, self.number or self.line, is_line=not self.number)


def format_row_place(name: str, position: int, *, is_line: bool) -> str:
    """Return ``file:line``, or ``file, row number`` if several rows share the line."""
    return f"{name}:{position}" if is_line else f"{name}, row {position}"


class FileRange(io.RawIOBase):
    """A byte range of an open file that can be read sequentially and by position."""

    def __init__(self, descriptor: int, start: int, size: int) -> None:
        self._descriptor = descriptor
        self._start = start
        self.size = size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        data = self.read_at(self._position, len(buffer))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def read_at(self, offset: int, size: int) -> bytes:
        """Return ``size`` bytes starting at ``offset``, or fewer at the end of the range."""
        size = min(size, self.size - offset)
        return os.pread(self._descriptor, size, self._start + offset) if size > 0 else b""


class ByteStream(io.BufferedReader):
    """An open, unpacked file, positioned after its byte-order mark."""

    def __init__(self, content: FileRange, buffer_size: int) -> None:
        super().__init__(content, buffer_size)
        self.content = content
        """The same bytes, for reading by position."""


ReadRows: TypeAlias = Callable[[ByteStream, str], Iterator[Row]]
"""A function that reads the rows of an open file.

Its second argument is the file's name, for errors about the whole file.
"""


def excerpt(text: str) -> str:
    """Return at most 80 characters of ``text`` on one line, with secrets redacted.

    The result is safe to print.
    """
    return one_line(redact(text[:EXCERPT_INPUT_LIMIT]), DETAIL_LIMIT)


def json_type(value: object) -> str:
    """Return the type of a JSON value in words, such as "a list"."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "text"
    return "a list" if isinstance(value, list) else "an object"


def not_utf8_error(raw: bytes, position: int, part: str = "row") -> RowError:
    """Return an error about a row, or a part of it, whose byte at ``position`` is not UTF-8."""
    byte = raw[position : position + 1]
    as_windows = byte.decode("cp1252", errors="ignore")
    known = as_windows and as_windows.isprintable()
    guess = f", which is {as_windows} in Windows-1252" if known else ""
    return RowError(
        "not UTF-8",
        f"byte {position + 1} of the {part} is 0x{byte.hex()}{guess}",
        hint='set the encoding, with --encoding cp1252 for Windows-1252, or encoding = "cp1252" '
        "in [data]; or convert to UTF-8: tunesmith data fix FILE --encoding cp1252 --out NEW",
    )

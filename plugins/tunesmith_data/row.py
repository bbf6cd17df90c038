"""One row of a file, or the error that makes it unusable."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from tunesmith.text import one_line, redact

Fields: TypeAlias = Mapping[str, object]
"""Column names and their values, with the types of JSON."""

DETAIL_LIMIT = 80
EXCERPT_INPUT_LIMIT = 1_000


class RowError(Exception):
    """A row cannot be used.

    ``cause`` is a fixed phrase, the same for all rows with this error. ``detail`` describes this
    row. ``hint`` states how to fix rows with this error.
    """

    def __init__(self, cause: str, detail: str = "", *, hint: str = "") -> None:
        super().__init__(cause)
        self.cause = cause
        self.detail = excerpt(detail)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Row:
    """A row and the line it starts on, counted from 1."""

    line: int
    fields: Fields | RowError


ByteStream: TypeAlias = "io.BufferedReader[Any]"
"""An open file, unpacked, positioned after its byte-order mark."""

ReadRows: TypeAlias = Callable[[ByteStream, str], Iterator[Row]]
"""A function that reads the rows of an open file. Its second argument is the file's name, for
errors that concern the entire file.
"""


def excerpt(text: str) -> str:
    """Return the first 80 characters of ``text`` at most, on one line, without secrets.

    The result is safe to print.
    """
    return one_line(redact(text[:EXCERPT_INPUT_LIMIT]), DETAIL_LIMIT)


def json_type(value: object) -> str:
    """Return the type of a JSON value in words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "text"
    return "a list" if isinstance(value, list) else "an object"


def not_utf8_error(raw: bytes, position: int) -> RowError:
    """Return the error of a row whose byte at ``position`` is not UTF-8."""
    byte = raw[position : position + 1]
    as_windows = byte.decode("cp1252", errors="ignore")
    known = as_windows and as_windows.isprintable()
    guess = f", which is {as_windows} in Windows-1252" if known else ""
    return RowError(
        "not UTF-8",
        f"byte {position + 1} of the row is 0x{byte.hex()}{guess}",
        hint="convert the file: iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW",
    )

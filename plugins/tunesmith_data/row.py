"""One row as it was read, or the fault that makes it unusable."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from tunesmith.text import one_line, redact

Fields: TypeAlias = Mapping[str, object]
"""Column names and what stands under them, as JSON knows it."""

DETAIL_LIMIT = 80
SEEN_LIMIT = 1_000


class Fault(Exception):
    """A row cannot be used.

    ``cause`` is a stable phrase shared by all rows with the same fault, ``detail`` says what this
    one holds, ``hint`` how rows of this kind are mended.
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
    fields: Fields | Fault


ByteStream: TypeAlias = "io.BufferedReader[Any]"
"""An open file, unpacked and after its byte-order mark."""

ReadRows: TypeAlias = Callable[[ByteStream, str], Iterator[Row]]
"""Reads the rows of an open file; the name is for errors about the file as a whole."""


def excerpt(text: str) -> str:
    """The beginning of ``text`` on one line: at most 80 characters, no secrets, safe to print."""
    return one_line(redact(text[:SEEN_LIMIT]), DETAIL_LIMIT)


def kind_of(value: object) -> str:
    """What a JSON value is, in words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "text"
    return "a list" if isinstance(value, list) else "an object"


def not_utf8(raw: bytes, position: int) -> Fault:
    """The fault of a row whose byte at ``position`` is not UTF-8."""
    byte = raw[position : position + 1]
    as_windows = byte.decode("cp1252", errors="ignore")
    known = as_windows and as_windows.isprintable()
    guess = f", which is {as_windows} in Windows-1252" if known else ""
    return Fault(
        "not UTF-8",
        f"byte {position + 1} of the row is 0x{byte.hex()}{guess}",
        hint="convert the file: iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW",
    )

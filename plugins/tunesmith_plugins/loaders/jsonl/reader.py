"""Rows of a JSON Lines file, a JSON array, or JSON objects spread over several lines."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tunesmith.errors import DataError
from tunesmith_data import ByteStream, Fault, Row
from tunesmith_data.json_line import STRING, parse_row

HEAD_BYTES = 1 << 16
SKIP_BYTES = 1 << 20
_TEXT = re.compile(rb"\S")
TABLE_NAME = re.compile(r"\.[ct]sv(\.gz)?$", re.IGNORECASE)
_TOKEN = re.compile(STRING + rb"|[\[\]{},]", re.DOTALL)


def read_rows(stream: ByteStream, name: str, *, max_row_bytes: int) -> Iterator[Row]:
    """The rows of an open file, whichever of the three ways it is written in.

    Raises:
        DataError: the file as a whole cannot be used.
    """
    head = stream.peek(HEAD_BYTES)[:HEAD_BYTES]
    if b"\r" in head and b"\n" not in head and b"\r" in head.strip():
        hint = "convert it: tr '\\r' '\\n' < FILE > NEW"
        raise DataError(name, "its lines end in bare carriage returns", hint=hint)
    if TABLE_NAME.search(name) and not head.lstrip().startswith((b"{", b"[")):
        raise DataError(name, "is not JSON", hint='read CSV and TSV with use = "table"')
    if head.lstrip().startswith(b"["):
        rows = _elements(stream.read(), name)
    elif _is_spread(head):
        rows = _objects(stream.read(), name)
    else:
        yield from _lines(stream, max_row_bytes)
        return
    for line, raw in rows:
        yield _row(line, raw, max_row_bytes)


def _is_spread(head: bytes) -> bool:
    """Whether the first object spreads over several lines."""
    first, newline, rest = head.lstrip().partition(b"\n")
    opens = first.startswith(b"{") and first.rstrip().endswith((b"{", b"[", b","))
    return bool(newline) and opens and not rest.lstrip().startswith(b"{")


def _row(line: int, raw: bytes, max_row_bytes: int) -> Row:
    if len(raw) > max_row_bytes:
        return Row(line, _too_large(max_row_bytes))
    try:
        return Row(line, parse_row(raw))
    except Fault as fault:
        return Row(line, fault)


def _too_large(max_row_bytes: int) -> Fault:
    hint = "raise max_row_bytes if rows of this size are expected"
    return Fault(f"row larger than {max_row_bytes:,} bytes", hint=hint)


def _lines(stream: ByteStream, max_row_bytes: int) -> Iterator[Row]:
    """One row a line; blank lines are none. Never more than one row is in memory."""
    number = 0
    while raw := stream.readline(max_row_bytes + 2):
        number += 1
        if len(raw) > max_row_bytes and not raw.endswith(b"\n"):
            while (rest := stream.readline(SKIP_BYTES)) and not rest.endswith(b"\n"):
                pass
            yield Row(number, _too_large(max_row_bytes))
        elif raw.strip():
            yield _row(number, raw.strip(b"\r\n"), max_row_bytes)


class _Lines:
    """Line numbers of ever later places, counted once."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0
        self._line = 1

    def of(self, place: int) -> int:
        """The line of ``place``, which is not before the one asked for last."""
        self._line += self._data.count(b"\n", self._place, place)
        self._place = place
        return self._line


def _elements(data: bytes, name: str) -> Iterator[tuple[int, bytes]]:
    """Line and bytes of each element of the array that ``data`` holds."""
    lines = _Lines(data)
    depth = 0
    begin = 0
    for token in _TOKEN.finditer(data):
        mark = token.group()
        depth += _step(mark)
        closes = depth == 0
        if depth == 1 and mark == b"[":
            begin = _text_after(data, token.end())
        elif closes or (depth == 1 and mark == b","):
            raw = data[begin : token.start()].rstrip()
            if raw or not closes:
                yield lines.of(begin), raw
            begin = _text_after(data, token.end())
        if closes:
            break
    if depth > 0:
        hint = "the file is cut off, or the brackets of this element do not match"
        raise DataError(f"{name}:{lines.of(begin)}", "the array is not closed", hint=hint)
    if begin < len(data):
        where = f"{name}:{lines.of(begin)}"
        raise DataError(where, "more text follows after the end of the array")


def _objects(data: bytes, name: str) -> Iterator[tuple[int, bytes]]:
    """Line and bytes of each of the objects that follow one another in ``data``."""
    lines = _Lines(data)
    depth = 0
    begin = _text_after(data, 0)
    for token in _TOKEN.finditer(data):
        step = _step(token.group())
        depth = max(depth + step, 0)
        if depth == 0 and step < 0:
            yield lines.of(begin), data[begin : token.end()]
            begin = _text_after(data, token.end())
    if begin < len(data):
        hint = "the file is cut off, or the brackets of this object do not match"
        raise DataError(f"{name}:{lines.of(begin)}", "an object is not closed", hint=hint)


def _step(mark: bytes) -> int:
    """How a token changes the depth."""
    if mark in (b"[", b"{"):
        return 1
    return -1 if mark in (b"]", b"}") else 0


def _text_after(data: bytes, place: int) -> int:
    """The first place from ``place`` on that is not white space."""
    found = _TEXT.search(data, place)
    return found.start() if found else len(data)

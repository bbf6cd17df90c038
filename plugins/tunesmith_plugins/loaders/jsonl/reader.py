"""Read rows from JSON Lines, a JSON array, or JSON objects that span several lines."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tunesmith.errors import DataError
from tunesmith_data import JSON_STRING, ByteStream, Row, RowError, parse_row

_HEAD_BYTES = 1 << 16
"""Bytes at the start of a file from which its layout is detected."""
_SKIP_BYTES = 1 << 20
"""Bytes that are skipped at a time in a row that is too large."""
_NOT_SPACE = re.compile(rb"\S")
_TABLE_SUFFIX = re.compile(r"\.[ct]sv(\.gz)?$", re.IGNORECASE)
_BRACKET_OR_STRING = re.compile(JSON_STRING + rb"|[\[\]{},]", re.DOTALL)


def read_rows(stream: ByteStream, name: str, *, max_row_bytes: int) -> Iterator[Row]:
    """Yield the rows of an open file in any of the three layouts.

    A row that cannot be parsed is yielded with a fault.

    Raises:
        DataError: the file cannot be read as rows.
    """
    head = stream.peek(_HEAD_BYTES)[:_HEAD_BYTES]
    if b"\r" in head and b"\n" not in head and b"\r" in head.strip():
        hint = "convert it: tr '\\r' '\\n' < FILE > NEW"
        raise DataError(name, "its lines end in bare carriage returns", hint=hint)
    if _TABLE_SUFFIX.search(name) and not head.lstrip().startswith((b"{", b"[")):
        raise DataError(name, "is not JSON", hint='read CSV and TSV with use = "table"')
    if head.lstrip().startswith(b"["):
        rows = _split_array(stream.read(), name)
    elif _is_multi_line(head):
        rows = _split_objects(stream.read(), name)
    else:
        yield from _read_lines(stream, max_row_bytes)
        return
    for line, raw in rows:
        yield _parse_row(line, raw, max_row_bytes)


def _is_multi_line(head: bytes) -> bool:
    """Return True if the first object spans several lines."""
    first, newline, rest = head.lstrip().partition(b"\n")
    continues = first.startswith(b"{") and first.rstrip().endswith((b"{", b"[", b","))
    return bool(newline) and continues and not rest.lstrip().startswith(b"{")


def _parse_row(line: int, raw: bytes, max_row_bytes: int) -> Row:
    if len(raw) > max_row_bytes:
        return Row(line, _too_large(max_row_bytes))
    try:
        return Row(line, parse_row(raw))
    except RowError as fault:
        return Row(line, fault)


def _too_large(max_row_bytes: int) -> RowError:
    hint = "raise max_row_bytes if rows of this size are expected"
    return RowError(f"row larger than {max_row_bytes:,} bytes", hint=hint)


def _read_lines(stream: ByteStream, max_row_bytes: int) -> Iterator[Row]:
    """Yield one row per line that is not blank, with at most one row in memory."""
    number = 0
    while raw := stream.readline(max_row_bytes + 2):
        number += 1
        if len(raw) > max_row_bytes and not raw.endswith(b"\n"):
            while (rest := stream.readline(_SKIP_BYTES)) and not rest.endswith(b"\n"):
                pass
            yield Row(number, _too_large(max_row_bytes))
        elif raw.strip():
            yield _parse_row(number, raw.strip(b"\r\n"), max_row_bytes)


class _LineCounter:
    """Line numbers of positions in ascending order, counted in one pass."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0
        self._line = 1

    def line_at(self, position: int) -> int:
        """Return the line number of ``position``, which must not precede the previous one."""
        self._line += self._data.count(b"\n", self._position, position)
        self._position = position
        return self._line


def _split_array(data: bytes, name: str) -> Iterator[tuple[int, bytes]]:
    """Yield line number and bytes of each element of the JSON array ``data``."""
    lines = _LineCounter(data)
    depth = 0
    begin = 0
    for token in _BRACKET_OR_STRING.finditer(data):
        mark = token.group()
        depth += _depth_change(mark)
        closes = depth == 0
        if depth == 1 and mark == b"[":
            begin = _skip_space(data, token.end())
        elif closes or (depth == 1 and mark == b","):
            raw = data[begin : token.start()].rstrip()
            if raw or not closes:
                yield lines.line_at(begin), raw
            begin = _skip_space(data, token.end())
        if closes:
            break
    if depth > 0:
        hint = "the file is cut off, or the brackets of this element do not match"
        raise DataError(f"{name}:{lines.line_at(begin)}", "the array is not closed", hint=hint)
    if begin < len(data):
        where = f"{name}:{lines.line_at(begin)}"
        raise DataError(where, "more text follows after the end of the array")


def _split_objects(data: bytes, name: str) -> Iterator[tuple[int, bytes]]:
    """Yield line number and bytes of each of the JSON objects in ``data``."""
    lines = _LineCounter(data)
    depth = 0
    begin = _skip_space(data, 0)
    for token in _BRACKET_OR_STRING.finditer(data):
        change = _depth_change(token.group())
        depth = max(depth + change, 0)
        if depth == 0 and change < 0:
            yield lines.line_at(begin), data[begin : token.end()]
            begin = _skip_space(data, token.end())
    if begin < len(data):
        hint = "the file is cut off, or the brackets of this object do not match"
        raise DataError(f"{name}:{lines.line_at(begin)}", "an object is not closed", hint=hint)


def _depth_change(mark: bytes) -> int:
    """Return 1 for an opening bracket, -1 for a closing one, 0 for other tokens."""
    if mark in (b"[", b"{"):
        return 1
    return -1 if mark in (b"]", b"}") else 0


def _skip_space(data: bytes, position: int) -> int:
    """Return the first position from ``position`` on that is not white space."""
    match = _NOT_SPACE.search(data, position)
    return match.start() if match else len(data)

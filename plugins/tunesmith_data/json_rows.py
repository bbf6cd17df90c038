"""Read rows from JSON Lines, from a JSON array, or from JSON objects that span several lines."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tunesmith.errors import DataError
from tunesmith_data.json_line import is_multi_line, parse_row, reparse_row
from tunesmith_data.row import ByteStream, FileRange, Row, RowError, RowSpan

_HEAD_BYTES = 1 << 16
"""The layout of a file is detected from this many bytes at its start."""
_SKIP_BYTES = 1 << 20
_MAX_SKIPPED_BYTES = 1 << 29
"""Give up after skipping this many bytes of a row: the file has no rows, or is a zip bomb."""
_BLOCK_BYTES = 1 << 16
"""Number of bytes to read at a time when searching for brackets and white space."""
_NOT_SPACE = re.compile(rb"\S")
_TABLE_SUFFIX = re.compile(r"\.[ct]sv(\.gz)?$", re.IGNORECASE)
_MARK_OR_STRING = re.compile(
    rb'(?P<mark>[\[\]{},])|"[^"\\]*+(?:\\.[^"\\]*+)*+(?P<closed>")?', re.DOTALL
)
_DEPTH_CHANGES = {b"[": 1, b"{": 1, b"]": -1, b"}": -1, b",": 0}
_END = 1 << 62
"""A position beyond the end of any file."""


def read_json_rows(stream: ByteStream, name: str, *, max_row_bytes: int) -> Iterator[Row]:
    """Yield the rows of JSON Lines, of a JSON array, or of JSON objects that span several lines.

    If a row cannot be parsed, yield it with an error instead of its fields.

    Raises:
        DataError: the file cannot be read as rows.
    """
    head = stream.peek(_HEAD_BYTES)[:_HEAD_BYTES]
    if b"\r" in head and b"\n" not in head and b"\r" in head.strip():
        hint = "convert the file: tr '\\r' '\\n' < FILE > NEW"
        raise DataError(name, "the lines end in bare carriage returns", hint=hint)
    if _TABLE_SUFFIX.search(name) and not head.lstrip().startswith((b"{", b"[")):
        raise DataError(name, "is not JSON", hint='read CSV and TSV files with data.use = "table"')
    if head.lstrip().startswith(b"["):
        yield from _number_rows(_split_array(stream, name, max_row_bytes))
    elif is_multi_line(head):
        yield from _number_rows(_split_objects(stream, name, max_row_bytes))
    else:
        yield from _read_lines(stream, name, max_row_bytes)


def _number_rows(rows: Iterator[Row]) -> Iterator[Row]:
    """Number the rows that share a line with another row. Others are identified by their line."""
    before = 0
    numbered = enumerate(rows, 1)
    number, row = next(numbered, (0, None))
    while row is not None:
        next_number, following = next(numbered, (0, None))
        is_alone = row.line != before and (following is None or row.line != following.line)
        yield row if is_alone else row._replace(number=number)
        before, number, row = row.line, next_number, following


def _parse_row(line: int, offset: int, raw: bytes, max_row_bytes: int) -> Row:
    span = RowSpan(offset, len(raw), reparse_row)
    if len(raw) > max_row_bytes:
        return Row(line, _too_large(max_row_bytes))
    try:
        return Row(line, parse_row(raw), span)
    except RowError as fault:
        return Row(line, fault, span)


def _too_large(max_row_bytes: int) -> RowError:
    hint = "raise max_row_bytes if you expect rows of this size"
    return RowError(f"row larger than {max_row_bytes:,} bytes", hint=hint)


def _read_lines(stream: ByteStream, name: str, max_row_bytes: int) -> Iterator[Row]:
    """Yield one row per line, skipping blank lines, with at most one row in memory."""
    number = 0
    offset = stream.tell()
    while raw := stream.readline(max_row_bytes + 2):
        number += 1
        start = offset
        offset += len(raw)
        if len(raw) > max_row_bytes and not raw.endswith(b"\n"):
            offset += _skip_row(stream, f"{name}:{number}")
            yield Row(number, _too_large(max_row_bytes))
        elif raw.strip():
            yield _parse_row(number, start, raw.rstrip(b"\r\n"), max_row_bytes)


def _skip_row(stream: ByteStream, where: str) -> int:
    """Read to the end of a row that is too large, and return the number of bytes read.

    Raises:
        DataError: the row does not end within the limit.
    """
    skipped = 0
    while rest := stream.readline(_SKIP_BYTES):
        skipped += len(rest)
        if rest.endswith(b"\n"):
            break
        if skipped > _MAX_SKIPPED_BYTES:
            message = (
                f"row larger than {_MAX_SKIPPED_BYTES:,} bytes, so reading the file stopped here"
            )
            raise DataError(where, message, hint="write one JSON object per line")
    return skipped


class _Elements:
    """Reads the elements of a file by position, and keeps track of line numbers."""

    def __init__(self, content: FileRange, max_row_bytes: int) -> None:
        self._content = content
        self._limit = max_row_bytes
        self._line = 1
        self._counted = 0

    def row(self, start: int, end: int) -> Row | None:
        """Return the row between two positions, or None if there is only white space."""
        begin = self.skip_space(start, end)
        if begin == end:
            return None
        line = self.line_at(begin)
        if end - begin > self._limit + _SKIP_BYTES:
            return Row(line, _too_large(self._limit))
        return _parse_row(
            line, begin, self._content.read_at(begin, end - begin).rstrip(), self._limit
        )

    def skip_space(self, position: int, end: int) -> int:
        """Return the first position from ``position`` on that is not white space, or ``end``."""
        while position < end:
            block = self._content.read_at(position, min(_BLOCK_BYTES, end - position))
            if not block:
                break
            if (match := _NOT_SPACE.search(block)) is not None:
                return position + match.start()
            position += len(block)
        return end

    def line_at(self, position: int) -> int:
        """Return the line number of ``position``, which must not decrease between calls."""
        while self._counted < position:
            block = self._content.read_at(self._counted, min(_SKIP_BYTES, position - self._counted))
            if not block:
                break
            self._line += block.count(b"\n")
            self._counted += len(block)
        return self._line


def _split_array(stream: ByteStream, name: str, max_row_bytes: int) -> Iterator[Row]:
    """Yield each element of a JSON array."""
    elements = _Elements(stream.content, max_row_bytes)
    depth = start = 0
    for mark, position in _find_marks(stream):
        depth += _DEPTH_CHANGES[mark]
        closes = depth == 0
        if closes or (depth == 1 and mark == b","):
            row = elements.row(start, position)
            if row is not None:
                yield row
            elif not closes:
                yield Row(
                    elements.line_at(position),
                    RowError("not JSON", "expected a value between the commas"),
                )
        if closes or (depth == 1 and mark in b"[,"):
            start = position + 1
        if closes:
            break
    begin = elements.skip_space(start, _END)
    if depth > 0:
        hint = "the file may be truncated, or the brackets of this element do not match"
        line = elements.line_at(min(begin, stream.content.size))
        raise DataError(f"{name}:{line}", "the array is not closed", hint=hint)
    if begin < _END:
        where = f"{name}:{elements.line_at(begin)}"
        raise DataError(
            where,
            "there is text after the end of the array",
            hint="remove the text after the closing bracket",
        )


def _split_objects(stream: ByteStream, name: str, max_row_bytes: int) -> Iterator[Row]:
    """Yield each JSON object of a file."""
    elements = _Elements(stream.content, max_row_bytes)
    start = stream.tell()
    depth = 0
    for mark, position in _find_marks(stream):
        change = _DEPTH_CHANGES[mark]
        depth = max(depth + change, 0)
        if depth == 0 and change < 0:
            row = elements.row(start, position + 1)
            if row is not None:
                yield row
            start = position + 1
    begin = elements.skip_space(start, _END)
    if begin < _END:
        hint = "the file may be truncated, or the brackets of this object do not match"
        where = f"{name}:{elements.line_at(begin)}"
        raise DataError(where, "an object is not closed", hint=hint)


def _find_marks(stream: ByteStream) -> Iterator[tuple[bytes, int]]:
    """Yield every bracket and comma outside of strings, with its position in the file."""
    base = stream.tell()
    rest = b""
    while block := stream.read(_BLOCK_BYTES):
        data, rest = rest + block, b""
        for token in _MARK_OR_STRING.finditer(data):
            if token.lastgroup == "mark":
                yield token.group(), base + token.start()
            elif token.lastgroup is None:  # a string that continues in the next block
                is_escaping = token.end() < len(data)
                rest = b'"\\' if is_escaping else b'"'
                break
        base += len(data) - len(rest)

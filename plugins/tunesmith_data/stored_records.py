"""Keep records in their files: only an index is in memory, and rows are read on demand."""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, overload

from tunesmith.data.subset import Subset
from tunesmith.errors import DataError
from tunesmith.records import Chat, Completion, Message, Record, Text
from tunesmith_data.record_reader import RecordReader
from tunesmith_data.row import Fields, Parse, Row, RowError, RowSpan, format_row_place
from tunesmith_data.stored import StoredBytes

BLOCK_BYTES = 1 << 20
"""Number of bytes to read at a time when records are read in order."""
MAX_ROW_GAP = 8
"""Rows count as read in order if each one follows the last one within this distance."""


CHANGED, COMPLETION, TEXT, CHAT = range(4)
"""The kinds of rows. Only the values of ``CHANGED`` rows were changed to build their records; the
values of other rows were copied unchanged to a record of that kind."""
_IS_NUMBER = 1 << 7
"""Flag in a row's kind: its position is a row number in the file, not a line number."""

_MESSAGE_KEYS = {"role", "content"}


class CopiedRows:
    """Rebuilds the records of most rows: those whose columns were copied unchanged.

    These rows passed all checks when they were first read. When they are read again, their records
    are built directly from the columns, which is several times faster than going through the
    format.

    Args:
        columns: the columns with the texts or the conversation, in the format's order.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = tuple(columns)

    def kind(self, record: Record, fields: Fields) -> int:
        """Return the kind of the row that the record was built from."""
        if record.group is not None or record.slices:
            return CHANGED
        values = [fields.get(column) for column in self._columns]
        match record:
            case Completion() if len(values) == 2:
                is_copy = record.prompt is values[0] and record.completion is values[1]
                return COMPLETION if is_copy else CHANGED
            case Text() if len(values) == 1:
                return TEXT if record.text is values[0] else CHANGED
            case Chat() if len(values) == 1 and isinstance(values[0], list):
                return CHAT if record.messages == _messages(values[0]) else CHANGED
        return CHANGED

    def build(self, kind: int, source: str, fields: Any) -> Record:
        """Return the record of a row that was read again."""
        if kind == COMPLETION:
            prompt, completion = self._columns
            return Completion(source=source, prompt=fields[prompt], completion=fields[completion])
        (column,) = self._columns
        if kind == TEXT:
            return Text(source=source, text=fields[column])
        return Chat(source=source, messages=_messages(fields[column]))


def _messages(items: Sequence[Any]) -> tuple[Message, ...]:
    """Return the messages if all items have only a role and a text; otherwise an empty tuple."""
    if any(type(item) is not dict or item.keys() != _MESSAGE_KEYS for item in items):
        return ()
    if any(type(item["content"]) is not str for item in items):
        return ()
    return tuple([Message(item["role"], item["content"]) for item in items])


@dataclass(frozen=True)
class Segment:
    """The rows of one file: the positions of their bytes, and how to turn them into records."""

    stored: StoredBytes
    parse: Parse
    reader: RecordReader
    copies: CopiedRows


class LazyRecords(Sequence[Record], ABC):
    """Records that are built on each access; a slice is a view."""

    @abstractmethod
    def make(self, row: int) -> Record:
        """Return the record at an index between 0 and the length - 1."""

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | Sequence[Record]:
        if isinstance(index, slice):
            return Subset(self, range(*index.indices(len(self))))
        return self.make(range(len(self))[index])


class StoredRecords(LazyRecords):
    """The records of files, in order, using 17 bytes of memory per record."""

    def __init__(self) -> None:
        self._segments: list[Segment] = []
        self._starts: list[int] = []
        self._offsets = array("Q")
        self._sizes = array("I")
        self._positions = array("I")
        self._kinds = bytearray()
        self._last = -MAX_ROW_GAP - 1
        self._block = _Block(-1, 0, b"")

    def start(self, segment: Segment) -> None:
        """Begin with the rows of the next file."""
        self._segments.append(segment)
        self._starts.append(len(self))

    def append(self, span: RowSpan, row: Row, kind: int = CHANGED) -> None:
        """Add a row of the current file."""
        self._offsets.append(span.offset)
        self._sizes.append(span.size)
        self._positions.append(row.number or row.line)
        self._kinds.append(kind | _IS_NUMBER if row.number else kind)

    def __len__(self) -> int:
        return len(self._offsets)

    def make(self, row: int) -> Record:
        number = bisect_right(self._starts, row) - 1
        segment = self._segments[number]
        offset, size = self._offsets[row], self._sizes[row]
        block, last, self._last = self._block, self._last, row
        begin = offset - block.offset
        if block.segment != number or begin < 0 or begin + size > len(block.data):
            if not 0 < row - last <= MAX_ROW_GAP:
                return self._build(segment, row, segment.stored.read(offset, size))
            block = self._block = _Block(number, offset, self._read_block(number, row))
            begin = 0
        return self._build(segment, row, block.data[begin : begin + size])

    def __iter__(self) -> Iterator[Record]:
        return map(self.make, range(len(self)))

    def _read_block(self, number: int, row: int) -> bytes:
        """Read a block of consecutive rows starting at ``row``, with at least one row."""
        starts = self._starts
        end = starts[number + 1] if number + 1 < len(starts) else len(self)
        limit = self._offsets[row] + BLOCK_BYTES
        stop = row + 1
        while stop < end and self._offsets[stop - 1] <= self._offsets[stop]:
            if self._offsets[stop] + self._sizes[stop] > limit:
                break
            stop += 1
        first = self._offsets[row]
        size = self._offsets[stop - 1] + self._sizes[stop - 1] - first
        return self._segments[number].stored.read(first, size)

    def _build(self, segment: Segment, row: int, data: bytes) -> Record:
        is_line = not self._kinds[row] & _IS_NUMBER
        kind = self._kinds[row] & ~_IS_NUMBER
        where = format_row_place(segment.reader.name, self._positions[row], is_line=is_line)
        try:
            fields = segment.parse(data)
            if kind != CHANGED:
                return segment.copies.build(kind, where, fields)
            return segment.reader.build_again(where, fields)
        except RowError as error:  # The content has changed, but not the size and time.
            raise DataError(where, f"changed after it was loaded: {error}") from error


class _Block(NamedTuple):
    """The bytes of consecutive rows of a segment, starting at an offset."""

    segment: int
    offset: int
    data: bytes

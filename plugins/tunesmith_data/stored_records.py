"""Records that stay in their files: an index in memory, and each row is read when it is needed."""

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
from tunesmith_data.row import Fields, Parse, Row, RowError, Span, name_place
from tunesmith_data.stored import Stored

BLOCK_BYTES = 1 << 20
"""Bytes that are read at a time when records are read in order."""
NEAR = 8
"""A row that follows the last one at up to this distance is read in order."""


CHANGED, COMPLETION, TEXT, CHAT = range(4)
"""The kinds of rows: those that are not copied, and what the copies of the others are."""
_IS_NUMBER = 1 << 7
"""Added to the kind of a row whose position is its number in the file, not its line."""

_MESSAGE_KEYS = {"role", "content"}


class CopiedRows:
    """The rows of one file whose record holds their columns as they are, which most rows do.

    They passed all checks when they were first read, and nothing of them was changed. When they are
    read again, their records are built from the same columns, several times faster than by their
    format.

    ``columns`` are those of the texts, or of the conversation, in the order of the format.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = tuple(columns)

    def kind(self, record: Record, fields: Fields) -> int:
        """Return the kind of a row, of which this is the record."""
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
        """Return the record of a row that was read once more."""
        if kind == COMPLETION:
            prompt, completion = self._columns
            return Completion(source=source, prompt=fields[prompt], completion=fields[completion])
        (column,) = self._columns
        if kind == TEXT:
            return Text(source=source, text=fields[column])
        return Chat(source=source, messages=_messages(fields[column]))


def _messages(items: Sequence[Any]) -> tuple[Message, ...]:
    """Return the messages of JSON objects if these have a role and a text only, else none."""
    if any(type(item) is not dict or item.keys() != _MESSAGE_KEYS for item in items):
        return ()
    if any(type(item["content"]) is not str for item in items):
        return ()
    return tuple([Message(item["role"], item["content"]) for item in items])


@dataclass(frozen=True)
class Segment:
    """The rows of one file: where their bytes are, and how they become records."""

    stored: Stored
    parse: Parse
    reader: RecordReader
    copies: CopiedRows


class LazyRecords(Sequence[Record], ABC):
    """Records that are made when they are needed, each time anew; a slice is a view of them."""

    @abstractmethod
    def make(self, row: int) -> Record:
        """Return a record by its index, which is at least 0 and below the length."""

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | Sequence[Record]:
        if isinstance(index, slice):
            return Subset(self, range(*index.indices(len(self))))
        return self.make(range(len(self))[index])


class StoredRecords(LazyRecords):
    """The records of files, in order; 17 bytes of memory for each."""

    def __init__(self) -> None:
        self._segments: list[Segment] = []
        self._starts: list[int] = []
        self._offsets = array("Q")
        self._sizes = array("I")
        self._positions = array("I")
        self._kinds = bytearray()
        self._last = -NEAR - 1
        self._block = _Block(-1, 0, b"")

    def start(self, segment: Segment) -> None:
        """Begin with the rows of the next file."""
        self._segments.append(segment)
        self._starts.append(len(self))

    def append(self, span: Span, row: Row, kind: int = CHANGED) -> None:
        """Add a row of the file that was begun last, with the place of its bytes."""
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
            if not 0 < row - last <= NEAR:
                return self._build(segment, row, segment.stored.read(offset, size))
            block = self._block = _Block(number, offset, self._read_block(number, row))
            begin = 0
        return self._build(segment, row, block.data[begin : begin + size])

    def __iter__(self) -> Iterator[Record]:
        return map(self.make, range(len(self)))

    def _read_block(self, number: int, row: int) -> bytes:
        """Return the bytes of rows from ``row`` on, of at least one."""
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
        where = name_place(segment.reader.name, self._positions[row], is_line=is_line)
        try:
            fields = segment.parse(data)
            if kind != CHANGED:
                return segment.copies.build(kind, where, fields)
            return segment.reader.build_again(where, fields)
        except RowError as error:  # the size and the time of the file are those of the first pass
            raise DataError(where, f"changed after it was loaded: {error}") from error


class _Block(NamedTuple):
    """The bytes of consecutive rows of a segment, from an offset on."""

    segment: int
    offset: int
    data: bytes

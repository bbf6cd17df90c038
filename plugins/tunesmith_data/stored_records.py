"""Records that stay in their files: an index in memory, and each row is read when it is needed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

from tunesmith.data.subset import Subset
from tunesmith.errors import DataError
from tunesmith.records import Record
from tunesmith_data.record_reader import RecordReader
from tunesmith_data.row import Parse, RowError
from tunesmith_data.stored import Stored

BLOCK_BYTES = 1 << 20
"""Bytes that are read at a time when records are read in order."""


@dataclass(frozen=True)
class Segment:
    """The rows of one file: where their bytes are, and how they become records."""

    stored: Stored
    parse: Parse
    reader: RecordReader


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
    """The records of files, in order; 16 bytes of memory for each."""

    def __init__(self) -> None:
        self._segments: list[Segment] = []
        self._starts: list[int] = []
        self._offsets = array("Q")
        self._sizes = array("I")
        self._lines = array("I")

    def start(self, segment: Segment) -> None:
        """Begin with the rows of the next file."""
        self._segments.append(segment)
        self._starts.append(len(self))

    def append(self, offset: int, size: int, line: int) -> None:
        """Add a row of the file that was begun last."""
        self._offsets.append(offset)
        self._sizes.append(size)
        self._lines.append(line)

    def __len__(self) -> int:
        return len(self._offsets)

    def make(self, row: int) -> Record:
        segment = self._segments[bisect_right(self._starts, row) - 1]
        data = segment.stored.read(self._offsets[row], self._sizes[row])
        return self._build(segment, row, data)

    def __iter__(self) -> Iterator[Record]:
        ends = [*self._starts[1:], len(self)]
        for segment, start, end in zip(self._segments, self._starts, ends, strict=True):
            row = start
            while row < end:
                stop = self._end_of_block(row, end)
                first = self._offsets[row]
                size = self._offsets[stop - 1] + self._sizes[stop - 1] - first
                block = segment.stored.read(first, size)
                for n in range(row, stop):
                    begin = self._offsets[n] - first
                    yield self._build(segment, n, block[begin : begin + self._sizes[n]])
                row = stop

    def _end_of_block(self, row: int, end: int) -> int:
        """Return the end of the rows from ``row`` on that are read at once, at least one."""
        limit = self._offsets[row] + BLOCK_BYTES
        stop = row + 1
        while stop < end and self._offsets[stop - 1] <= self._offsets[stop]:
            if self._offsets[stop] + self._sizes[stop] > limit:
                break
            stop += 1
        return stop

    def _build(self, segment: Segment, row: int, data: bytes) -> Record:
        line = self._lines[row]
        try:
            return segment.reader.build_again(line, segment.parse(data))
        except RowError as error:  # the size and the time of the file are those of the first pass
            where = f"{segment.reader.name}:{line}"
            raise DataError(where, f"changed after it was loaded: {error}") from error

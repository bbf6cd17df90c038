"""Read rows into a dataset, and count every row that cannot be used."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.contracts import Dataset
from tunesmith.errors import DataError
from tunesmith.records import Record
from tunesmith_data.files import DataFile, find_files, open_data_file
from tunesmith_data.guess_columns import guess_columns
from tunesmith_data.record_reader import RecordReader
from tunesmith_data.row import ReadRows, Row, RowError, RowSpan
from tunesmith_data.skipped_rows import SkippedRows
from tunesmith_data.stored import OpenFiles, Spool, StoredBytes, StoredInSpool
from tunesmith_data.stored_records import CopiedRows, Segment, StoredRecords

if TYPE_CHECKING:
    from tunesmith_data.options import FieldOptions, RowOptions

MAX_BYTES_IN_MEMORY = 64_000_000
"""Records stay in memory as long as their rows take at most this many bytes."""
MAX_NAMED_FILES = 3
FIRST_ROWS = 100


@dataclass(frozen=True)
class RowSource:
    """A file or another source of rows.

    ``open`` returns a context manager, which yields the rows and the storage from which rows with a
    span can be read again.
    """

    name: str
    open: Callable[[RowStore], AbstractContextManager[tuple[Iterator[Row], StoredBytes | None]]]
    may_be_unusable: bool = False
    """True if other sources may be used even if this one has no usable rows."""

    @classmethod
    def of_rows(cls, name: str, read: Callable[[], Iterator[Row]]) -> RowSource:
        """Return a source of rows that have no position in a file, such as database rows."""

        @contextmanager
        def open_rows(store: RowStore) -> Iterator[tuple[Iterator[Row], None]]:
            yield read(), None

        return cls(name, open_rows)


@dataclass(frozen=True)
class RowStore:
    """The files that rows are read from again: the user's files, and a temporary file."""

    spool: Spool = field(default_factory=Spool)
    files: OpenFiles = field(default_factory=OpenFiles)


def _is_text(file: DataFile) -> None:
    """Treat every file as text, by returning None."""


@dataclass(frozen=True)
class RowLoader:
    """A data loader for files of rows.

    ``read`` yields the rows of one open file. The loader finds and opens files, detects the format,
    builds records, and counts the rows that cannot be used.
    """

    options: RowOptions
    read: ReadRows
    memory: int = MAX_BYTES_IN_MEMORY
    """Maximum bytes of the rows whose records stay in memory; if there are more, records are read
    again on demand."""
    open_other: Callable[[DataFile], RowSource | None] = _is_text
    """Returns the row source for a file that is not text, or None for text files."""

    def load(self) -> Dataset:
        """Read all files.

        Raises:
            DataError: a file cannot be used, or too many rows are unusable (``max_skipped``).
        """
        options = self.options
        train, test, validation = (
            find_files(names or []) for names in (options.train, options.test, options.validation)
        )
        refuse_shared_files(train=train, test=test, validation=validation)
        sources = ([self._source(file) for file in files] for files in (train, test, validation))
        return load_sources(options, *sources, memory=self.memory)

    def first_columns(self) -> list[str]:
        """Return the distinct columns in the first rows that can be parsed.

        Raises:
            DataError: a file cannot be used.
        """
        found: dict[str, None] = {}
        source = self._source(find_files(self.options.train)[0])
        with source.open(RowStore()) as (rows, _):
            for row in islice(rows, FIRST_ROWS):
                if not isinstance(row.fields, RowError):
                    found |= dict.fromkeys(row.fields)
        return list(found)

    def guess_columns(self) -> dict[str, str]:
        """Return a value of the option ``columns`` that suits the column names.

        It is empty if the columns are those of a format, if the options map columns, or if nothing
        fits.

        Raises:
            DataError: a file cannot be used.
        """
        return {} if self.options.columns else guess_columns(self.first_columns()) or {}

    def _source(self, file: DataFile) -> RowSource:
        other = self.open_other(file)
        if other is not None:
            return other

        @contextmanager
        def open_rows(store: RowStore) -> Iterator[tuple[Iterator[Row], StoredBytes]]:
            limit = self.options.max_unpacked_bytes
            with open_data_file(
                file,
                max_unpacked_bytes=limit,
                spool=store.spool,
                files=store.files,
                encoding=self.options.encoding,
            ) as opened:
                yield self.read(opened.stream, file.display_name), opened.stored

        return RowSource(file.display_name, open_rows)


@dataclass(frozen=True)
class SourceLoader:
    """A data loader for sources other than files, such as services and databases."""

    options: FieldOptions
    train: Sequence[RowSource]
    test: Sequence[RowSource] = ()
    validation: Sequence[RowSource] = ()
    memory: int = MAX_BYTES_IN_MEMORY
    """Maximum bytes of the rows whose records stay in memory; if there are more, records are read
    again from a temporary file."""

    def load(self) -> Dataset:
        """Read all sources; see :func:`load_sources`."""
        return load_sources(
            self.options, self.train, self.test, self.validation, memory=self.memory
        )


def refuse_shared_files(**parts: Sequence[DataFile]) -> None:
    """Raise an error if a file belongs to two splits; ``parts`` maps split names to files."""
    seen: dict[Path, str] = {}
    for part, files in parts.items():
        for file in files:
            first = seen.setdefault(file.path.resolve(), part)
            if first != part:
                hint = f"use a different file, or remove data.{part} to split rows off data.train"
                raise DataError(file.display_name, f"is in both {first} and {part}", hint=hint)


def load_sources(
    options: FieldOptions,
    train: Sequence[RowSource],
    test: Sequence[RowSource] = (),
    validation: Sequence[RowSource] = (),
    *,
    memory: int = MAX_BYTES_IN_MEMORY,
) -> Dataset:
    """Read the rows of all sources; splits without a source are split off from ``train`` later.

    Raises:
        DataError: a source cannot be used, or too many rows are unusable (``max_skipped``).
    """
    store = RowStore()
    parts: dict[str, _Part] = {}
    for name, sources in (("train", train), ("test", test), ("validation", validation)):
        if sources or name == "train":
            parts[name] = _Part(options, store, memory)
            parts[name].read(sources)
    descriptions = [f"{name}: {part.description()}" for name, part in parts.items()]
    return Dataset(
        train=parts["train"].records(),
        test=parts["test"].records() if test else None,
        validation=parts["validation"].records() if validation else None,
        skipped=[row for part in parts.values() for row in part.unusable_rows.skipped],
        description="; ".join(descriptions).removeprefix("train: "),
        warnings=list(dict.fromkeys(chain.from_iterable(p.warnings for p in parts.values()))),
    )


class _Part:
    """The rows of one split: records in memory, or an index if there are too many."""

    def __init__(self, options: FieldOptions, store: RowStore, memory: int) -> None:
        self.options = options
        self.unusable_rows = SkippedRows(options.max_skipped)
        self._store = store
        self._memory = memory
        self._in_memory: list[Record] | None = []
        self._stored = StoredRecords()
        self._descriptions: list[str] = []
        self.warnings: list[str] = []
        """Distinct messages about unused columns."""

    def records(self) -> Sequence[Record]:
        """Return the records of all usable rows."""
        return self._stored if self._in_memory is None else self._in_memory

    def description(self) -> str:
        """Describe the sources with their formats; if there are many, only the first few."""
        more = len(self._descriptions) - MAX_NAMED_FILES
        names = self._descriptions[:MAX_NAMED_FILES]
        return "; ".join([*names, f"and {more:,} more files"] if more > 0 else names)

    def read(self, sources: Sequence[RowSource]) -> None:
        """Read all rows once.

        Raises:
            DataError: see :func:`load_sources`.
        """
        for source in sources:
            before = len(self._stored)
            reader = RecordReader(
                source.name, self.options, self.unusable_rows, source.may_be_unusable
            )
            with source.open(self._store) as (rows, stored):
                self._read_source(rows, reader, stored)
            count = len(self._stored) - before
            self._descriptions.append(f"{source.name}: {reader.description(count)}")
            self.warnings += [text for text in reader.warnings() if text not in self.warnings]
        names = ", ".join(source.name for source in sources[:MAX_NAMED_FILES])
        self.unusable_rows.check(names, len(self._stored))

    def _read_source(
        self, rows: Iterator[Row], reader: RecordReader, stored: StoredBytes | None
    ) -> None:
        in_spool = StoredInSpool(self._store.spool, 0)
        copies: CopiedRows | None = None
        for row, record in reader.records(rows, lambda row: _row_text(row, stored)):
            span = row.span or self._copy(row)
            if copies is None:
                place = stored if row.span and stored else in_spool
                copies = CopiedRows(reader.copied_columns)
                self._stored.start(Segment(place, span.parse, reader, copies))
            assert not isinstance(row.fields, RowError), "rows with a record are usable"
            kind = copies.kind(record, row.fields)
            self._stored.append(span, row, kind)
            self._memory -= span.size
            if self._in_memory is not None:
                self._in_memory.append(record)
                if self._memory < 0:
                    self._in_memory = None

    def _copy(self, row: Row) -> RowSpan:
        """Copy a row that has no span to the temporary file."""
        data = json.dumps(row.fields, default=str).encode()
        return RowSpan(self._store.spool.append(data), len(data), _parse_copy)


def _parse_copy(data: bytes) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(data)
    return fields


def _row_text(row: Row, stored: StoredBytes | None) -> str:
    """Return the original text of an unusable row, or its columns as JSON."""
    if row.span is not None and stored is not None:
        return stored.read(row.span.offset, row.span.size).decode("utf-8", "backslashreplace")
    return "" if isinstance(row.fields, RowError) else json.dumps(row.fields, default=str)

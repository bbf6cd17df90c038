"""From files of rows to a dataset, with an account of every row."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from tunesmith.contracts import Dataset, LeftOut
from tunesmith.errors import DataError
from tunesmith.records import Record
from tunesmith.text import did_you_mean
from tunesmith_data.files import DataFile, find, opened
from tunesmith_data.formats import Cells, Format, Layout, label, layout_of
from tunesmith_data.row import Fault, Fields, ReadRows, Row

if TYPE_CHECKING:
    from tunesmith_data.options import RowOptions

PEEKED_ROWS = 1_000
NAMED_FILES = 3
NAMED_COLUMNS = 6


@dataclass(frozen=True)
class RowLoader:
    """A data loader for files of rows."""

    options: RowOptions
    read: ReadRows

    def load(self) -> Dataset:
        """Read all files.

        Raises:
            DataError: a file cannot be used, or more rows than ``max_left_out`` allows.
        """
        train, heldout = find(self.options.train), find(self.options.heldout or [])
        _refuse_overlap(train, heldout)
        learned = self._part(train)
        if not heldout:
            return learned
        kept = self._part(heldout)
        return Dataset(
            train=learned.train,
            heldout=kept.train,
            left_out=[*learned.left_out, *kept.left_out],
            description=f"{learned.description}; held out: {kept.description}",
        )

    def _part(self, files: Sequence[DataFile]) -> Dataset:
        """The records of several files, as the training part of a dataset."""
        records: list[Record] = []
        said = []
        tally = _Tally(self.options.max_left_out)
        for file in files:
            before = len(records)
            reading = _Reading(file, self.options, tally)
            with opened(file, max_unpacked_bytes=self.options.max_unpacked_bytes) as stream:
                records.extend(reading.records(self.read(stream, file.shown)))
            said.append(f"{file.shown}: {len(records) - before:,} rows of {reading.description()}")
        names = ", ".join(file.shown for file in files[:NAMED_FILES])
        tally.check(names, len(records))
        if len(said) > NAMED_FILES:
            said[NAMED_FILES:] = [f"and {len(said) - NAMED_FILES:,} more files"]
        return Dataset(train=records, left_out=tally.left_out, description="; ".join(said))


def _refuse_overlap(train: Sequence[DataFile], heldout: Sequence[DataFile]) -> None:
    trained = {file.path.resolve() for file in train}
    for file in heldout:
        if file.path.resolve() in trained:
            hint = "name another file, or leave heldout out and a part of train is held out"
            raise DataError(file.shown, "is in both train and heldout", hint=hint)


@dataclass
class _Tally:
    """Counts the rows that could not be used and says when they are too many."""

    allowed: float
    left_out: list[LeftOut] = field(default_factory=list)
    hints: dict[str, str] = field(default_factory=dict)

    def add(self, where: str, fault: Fault) -> None:
        self.left_out.append(LeftOut(where=where, cause=fault.cause, detail=fault.detail))
        if fault.hint:
            self.hints.setdefault(fault.cause, fault.hint)

    def check(self, name: str, used: int) -> None:
        """Raise a :class:`DataError` if there is nothing to use, or too much cannot be used."""
        unusable = len(self.left_out)
        rows = used + unusable
        if rows == 0:
            raise DataError(name, "holds no rows")
        if used and unusable <= self.allowed * rows:
            return
        causes = Counter(item.cause for item in self.left_out)
        first = {item.cause: item for item in reversed(self.left_out)}
        lines = [_cause_line(count, first[cause]) for cause, count in causes.most_common(10)]
        what = f"{unusable:,} of {rows:,} rows cannot be used"
        hint = "look at the first of them: the file is not what the loader takes it for"
        if used:
            what += f", more than max_left_out = {self.allowed:g} allows"
            hint = "mend these rows, or raise max_left_out to train without them"
        hints = [self.hints[cause] for cause, _ in causes.most_common() if cause in self.hints]
        raise DataError(name, "\n".join([what, *lines]), hint=hints[0] if hints else hint)


def _cause_line(count: int, first: LeftOut) -> str:
    detail = f" ({first.detail})" if first.detail else ""
    return f"  {count:,} × {first.cause}, first at {first.where}{detail}"


class _Reading:
    """Turns the rows of one file into records; faults go to the tally."""

    def __init__(self, file: DataFile, options: RowOptions, tally: _Tally) -> None:
        self.file = file
        self.options = options
        self.tally = tally
        self.formats: tuple[Format, ...] = options.formats()
        self.renamed = options.renamed()
        self.layout: Layout | None = None
        self.ignored: list[str] = []
        self._layouts: dict[tuple[str, ...], Layout | None] = {}

    def records(self, rows: Iterator[Row]) -> Iterator[Record]:
        """The records of usable rows, in the order of the file."""
        peeked = list(itertools.islice(rows, PEEKED_ROWS))
        self._settle(peeked)
        for row in itertools.chain(peeked, rows):
            where = f"{self.file.shown}:{row.line}"
            try:
                yield self._record(row, where)
            except Fault as fault:
                self.tally.add(where, fault)

    def description(self) -> str:
        """What was recognised, and which columns are not used."""
        if not self.ignored:
            return str(self.layout)
        names = ", ".join(self.ignored[:NAMED_COLUMNS])
        if len(self.ignored) > NAMED_COLUMNS:
            names += f" and {len(self.ignored) - NAMED_COLUMNS:,} more"
        return f"{self.layout}, not using {names}"

    def _settle(self, peeked: Sequence[Row]) -> None:
        """Take the layout that most of the first rows have."""
        usable = [row for row in peeked if not isinstance(row.fields, Fault)]
        found = Counter(
            str(layout) for row in usable if (layout := self._layout_of(_fields(row))) is not None
        )
        if found:
            wanted = found.most_common(1)[0][0]
            self.layout = next(x for x in self._layouts.values() if x and str(x) == wanted)
            self._check_options(usable)
            self.ignored = self._unused_columns(usable)
        elif usable:
            raise self._unknown_format(usable[0])
        elif peeked:
            for row in peeked:
                assert isinstance(row.fields, Fault)
                self.tally.add(f"{self.file.shown}:{row.line}", row.fields)
            self.tally.check(self.file.shown, 0)

    def _layout_of(self, fields: Fields) -> Layout | None:
        present = tuple(key for key, value in fields.items() if value is not None)
        if present not in self._layouts:
            if len(self._layouts) > PEEKED_ROWS:  # rows with ever new columns must not fill memory
                self._layouts.clear()
            self._layouts[present] = layout_of(frozenset(present), self.formats, self.renamed)
        return self._layouts[present]

    def _record(self, row: Row, where: str) -> Record:
        fields = _fields(row)
        assert self.layout is not None
        layout = self._layout_of(fields)
        if layout is None:
            raise self._incomplete(fields)
        if not layout.same_as(self.layout):
            raise Fault("other format than the rest of the file", str(layout))
        record = layout.format.build(Cells(where, fields, layout.columns, self.options.system))
        return self._tied(record, fields)

    def _tied(self, record: Record, fields: Fields) -> Record:
        """The record with its group and slices, where the options name any."""
        options = self.options
        if options.group is None and not options.slices:
            return record
        group = None
        if options.group is not None:
            group = label(fields, options.group)
            if group is None:
                raise Fault(f"`{options.group}` has no value", _columns_seen(fields, options.group))
        named = ((column, label(fields, column)) for column in options.slices)
        slices = tuple((column, value) for column, value in named if value is not None)
        return replace(record, group=group, slices=slices)

    def _incomplete(self, fields: Fields) -> Fault:
        """Why a row is not in the file's layout, nor in any other."""
        assert self.layout is not None
        if not fields:
            return Fault("row is empty")
        for column in self.layout.needed.values():
            if column not in fields:
                return Fault(f"has no `{column}`", _columns_seen(fields, column))
            if fields[column] is None:
                return Fault(f"`{column}` is null")
        raise AssertionError("a row with all needed columns has a layout")

    def _check_options(self, rows: Sequence[Row]) -> None:
        """Refuse options that this file cannot follow, instead of not reading them."""
        options = self.options
        if options.system is not None and self.layout and self.layout.format.name == "text":
            raise DataError(self.file.shown, "plain text has no place for the system prompt")
        seen = _columns_of(rows)
        for column in (options.group, *options.slices, *self.renamed.values()):
            if column is not None and column not in seen:
                hint = _columns_seen(seen, column)
                raise DataError(self.file.shown, f"has no column `{column}`", hint=hint)

    def _unused_columns(self, rows: Sequence[Row]) -> list[str]:
        used = {self.options.group, *self.options.slices}
        for layout in self._layouts.values():
            used.update(layout.columns.values() if layout else ())
        return [column for column in _columns_of(rows) if column not in used]

    def _unknown_format(self, row: Row) -> DataError:
        fields = _fields(row)
        where = f"{self.file.shown}:{row.line}"
        if not fields:
            return DataError(where, "row is empty")
        wanted = [self.renamed.get(name, name) for known in self.formats for name in known.needs]
        names = ", ".join(f"`{name}`" for name in itertools.islice(fields, NAMED_COLUMNS))
        if any(fields.get(name, "") is None for name in wanted):
            names += " (some of them null)"
        guesses = [guess for key in fields if (guess := did_you_mean(key, wanted))]
        if guesses and guesses[0] not in fields:
            hint = f"did you mean `{guesses[0]}`?"
        else:
            hint = 'say which is which: columns = { prompt = "...", completion = "..." }'
        return DataError(where, f"no known format has the columns {names}", hint=hint)


def _fields(row: Row) -> Fields:
    if isinstance(row.fields, Fault):
        raise row.fields
    return row.fields


def _columns_of(rows: Sequence[Row]) -> dict[str, object]:
    """The columns of some rows, each once, in the order of first sight."""
    return dict.fromkeys(key for row in rows for key in _fields(row))


def _columns_seen(fields: Fields, wanted: str) -> str:
    guess = did_you_mean(wanted, list(fields))
    if guess is not None and guess != wanted:
        return f"did you mean `{guess}`?"
    return "columns: " + ", ".join(itertools.islice(fields, NAMED_COLUMNS))

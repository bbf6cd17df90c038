"""Read files of rows into a dataset, and account for every row that cannot be used."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from tunesmith.contracts import Dataset, LeftOut
from tunesmith.errors import DataError
from tunesmith.records import Record
from tunesmith.text import suggest_name
from tunesmith_data.files import DataFile, find_files, open_data_file
from tunesmith_data.formats import Format, FormatMatch, match_format
from tunesmith_data.message import unused_keys
from tunesmith_data.row import Fields, ReadRows, Row, RowError
from tunesmith_data.row_view import RowView, label_text

if TYPE_CHECKING:
    from tunesmith_data.options import RowOptions

FORMAT_DETECTION_ROWS = 1_000
"""Rows at the beginning of a file that decide its format."""
MAX_NAMED_FILES = 3
MAX_NAMED_COLUMNS = 6


@dataclass(frozen=True)
class RowLoader:
    """A data loader for files of rows.

    ``read`` yields the rows of one open file; the loader finds and opens files, detects the format,
    builds records and counts the rows that cannot be used.
    """

    options: RowOptions
    read: ReadRows

    def load(self) -> Dataset:
        """Read all files.

        Raises:
            DataError: a file cannot be used, or more rows are unusable than ``max_left_out``
                allows.
        """
        train, heldout = find_files(self.options.train), find_files(self.options.heldout or [])
        _refuse_overlap(train, heldout)
        train_part = self._read_files(train)
        if not heldout:
            return train_part
        heldout_part = self._read_files(heldout)
        return Dataset(
            train=train_part.train,
            heldout=heldout_part.train,
            left_out=[*train_part.left_out, *heldout_part.left_out],
            description=f"{train_part.description}; held out: {heldout_part.description}",
            warnings=list(dict.fromkeys([*train_part.warnings, *heldout_part.warnings])),
        )

    def _read_files(self, files: Sequence[DataFile]) -> Dataset:
        """Return the records of several files, as the training part of a dataset."""
        records: list[Record] = []
        descriptions = []
        warnings: list[str] = []
        unusable_rows = _UnusableRows(self.options.max_left_out)
        for file in files:
            before = len(records)
            reader = _FileReader(file, self.options, unusable_rows)
            with open_data_file(file, max_unpacked_bytes=self.options.max_unpacked_bytes) as stream:
                records.extend(reader.records(self.read(stream, file.display_name)))
            descriptions.append(
                f"{file.display_name}: {len(records) - before:,} rows of {reader.description()}"
            )
            warnings += reader.warnings()
        names = ", ".join(file.display_name for file in files[:MAX_NAMED_FILES])
        unusable_rows.check(names, len(records))
        if len(descriptions) > MAX_NAMED_FILES:
            descriptions[MAX_NAMED_FILES:] = [
                f"and {len(descriptions) - MAX_NAMED_FILES:,} more files"
            ]
        return Dataset(
            train=records,
            left_out=unusable_rows.left_out,
            description="; ".join(descriptions),
            warnings=list(dict.fromkeys(warnings)),
        )


def _refuse_overlap(train: Sequence[DataFile], heldout: Sequence[DataFile]) -> None:
    trained = {file.path.resolve() for file in train}
    for file in heldout:
        if file.path.resolve() in trained:
            hint = "name another file, or leave heldout out and a part of train is held out"
            raise DataError(file.display_name, "is in both train and heldout", hint=hint)


@dataclass
class _UnusableRows:
    """The rows that could not be used, with a check of their share."""

    allowed: float
    left_out: list[LeftOut] = field(default_factory=list)
    hints: dict[str, str] = field(default_factory=dict)

    def add(self, where: str, error: RowError) -> None:
        self.left_out.append(LeftOut(where=where, cause=error.cause, detail=error.detail))
        if error.hint:
            self.hints.setdefault(error.cause, error.hint)

    def check(self, name: str, used: int) -> None:
        """Raise a :class:`DataError` if no row is usable, or too many are not."""
        unusable = len(self.left_out)
        rows = used + unusable
        if rows == 0:
            raise DataError(name, "holds no rows")
        if used and unusable <= self.allowed * rows:
            return
        causes = Counter(item.cause for item in self.left_out)
        first = {item.cause: item for item in reversed(self.left_out)}
        lines = [_format_cause(count, first[cause]) for cause, count in causes.most_common(10)]
        summary = f"{unusable:,} of {rows:,} rows cannot be used"
        hint = "check the first of these rows: the file may have another format"
        if used:
            summary += f", more than max_left_out = {self.allowed:g} allows"
            hint = "fix these rows, or raise max_left_out to train without them"
        hints = [self.hints[cause] for cause, _ in causes.most_common() if cause in self.hints]
        raise DataError(name, "\n".join([summary, *lines]), hint=hints[0] if hints else hint)


def _format_cause(count: int, first: LeftOut) -> str:
    detail = f" ({first.detail})" if first.detail else ""
    return f"  {count:,} × {first.cause}, first at {first.where}{detail}"


class _FileReader:
    """Turns the rows of one file into records, and counts rows that cannot be used."""

    def __init__(self, file: DataFile, options: RowOptions, unusable_rows: _UnusableRows) -> None:
        self.file = file
        self.options = options
        self.unusable_rows = unusable_rows
        self.formats: tuple[Format, ...] = options.formats()
        self.field_columns = options.field_columns()
        self.match: FormatMatch | None = None
        self.without = options.ignored_columns()
        self.optional: list[str] = []
        self.unused: list[str] = []
        self._matches: dict[tuple[str, ...], FormatMatch | None] = {}

    def records(self, rows: Iterator[Row]) -> Iterator[Record]:
        """Yield the records of usable rows, in the order of the file."""
        first_rows = list(itertools.islice(rows, FORMAT_DETECTION_ROWS))
        self._choose_format(first_rows)
        for row in itertools.chain(first_rows, rows):
            where = f"{self.file.display_name}:{row.line}"
            try:
                yield self._record(row, where)
            except RowError as error:
                self.unusable_rows.add(where, error)

    def description(self) -> str:
        """Return the recognized format, and the columns by which it was recognized."""
        return f"{self.match}, with {_join(self.optional)}" if self.optional else str(self.match)

    def warnings(self) -> list[str]:
        """Return a sentence about the columns and keys that are not used; often none."""
        if not self.unused:
            return []
        return [f"{self.file.display_name}: not used: {_join(self.unused)}"]

    def _choose_format(self, first_rows: Sequence[Row]) -> None:
        """Choose the format that most of the first rows have."""
        usable = [row for row in first_rows if not isinstance(row.fields, RowError)]
        candidates = Counter(
            str(match) for row in usable if (match := self._match(_fields_of(row))) is not None
        )
        if candidates:
            expected = candidates.most_common(1)[0][0]
            self.match = next(x for x in self._matches.values() if x and str(x) == expected)
            self._check_options(usable)
            self.optional = self._optional_columns()
            self.unused = [*self._unused_columns(usable), *self._unused_keys(usable)]
        elif usable:
            raise self._unknown_format_error(usable[0])
        elif first_rows:
            for row in first_rows:
                assert isinstance(row.fields, RowError)
                self.unusable_rows.add(f"{self.file.display_name}:{row.line}", row.fields)
            self.unusable_rows.check(self.file.display_name, 0)

    def _match(self, fields: Fields) -> FormatMatch | None:
        present = tuple(
            key for key, value in fields.items() if value is not None and key not in self.without
        )
        if present not in self._matches:
            # Bounded, because every row of a file may have new columns.
            if len(self._matches) > FORMAT_DETECTION_ROWS:
                self._matches.clear()
            self._matches[present] = match_format(
                frozenset(present), self.formats, self.field_columns
            )
        return self._matches[present]

    def _record(self, row: Row, where: str) -> Record:
        fields = _fields_of(row)
        assert self.match is not None
        match = self._match(fields)
        if match is None:
            raise self._missing_column_error(fields)
        if not match.is_compatible_with(self.match):
            raise RowError("other format than the rest of the file", str(match))
        view = RowView(where, self._used(fields), match.columns, self.options.system, match.rivals)
        record = match.format.build(view)
        return self._with_group_and_slices(record, fields)

    def _used(self, fields: Fields) -> Fields:
        """Return the row without the columns that are to be ignored."""
        if not self.without:
            return fields
        return {key: value for key, value in fields.items() if key not in self.without}

    def _with_group_and_slices(self, record: Record, fields: Fields) -> Record:
        """Return the record with its group and slices, if the options name any."""
        options = self.options
        if options.group is None and not options.slices:
            return record
        group = None
        if options.group is not None:
            group = label_text(fields, options.group)
            if group is None:
                raise RowError(
                    f"`{options.group}` has no value", _column_hint(fields, options.group)
                )
        labels = ((column, label_text(fields, column)) for column in options.slices)
        slices = tuple((column, value) for column, value in labels if value is not None)
        return replace(record, group=group, slices=slices)

    def _missing_column_error(self, fields: Fields) -> RowError:
        """Return the reason why a row matches no format."""
        assert self.match is not None
        if not fields:
            return RowError("row is empty")
        for column in self.match.required_columns.values():
            if column not in fields:
                return RowError(f"has no `{column}`", _column_hint(fields, column))
            if fields[column] is None:
                return RowError(f"`{column}` is null")
        raise AssertionError("a row with all required columns matches its format")

    def _check_options(self, rows: Sequence[Row]) -> None:
        """Raise an error for options that do not apply to this file."""
        options = self.options
        if options.system is not None and self.match and self.match.format.name == "text":
            raise DataError(self.file.display_name, "plain text has no place for the system prompt")
        columns = _all_columns(rows)
        named = (options.group, *options.slices, *options.ignore, *self.field_columns.values())
        for column in named:
            if column is not None and column not in columns:
                hint = _column_hint(columns, column)
                raise DataError(self.file.display_name, f"has no column `{column}`", hint=hint)

    def _optional_columns(self) -> list[str]:
        """Return the columns that are used but did not decide on the format."""
        assert self.match is not None
        required = self.match.required_columns.values()
        columns = (c for match in self._matches.values() if match for c in match.columns.values())
        return [column for column in dict.fromkeys(columns) if column not in required]

    def _unused_columns(self, rows: Sequence[Row]) -> list[str]:
        used = {self.options.group, *self.options.slices}
        for match in self._matches.values():
            used.update(match.columns.values() if match else ())
        return [column for column in _all_columns(rows) if column not in used]

    def _unused_keys(self, rows: Sequence[Row]) -> list[str]:
        """Return the keys of messages that are not used, each with its column."""
        assert self.match is not None
        columns = dict.fromkeys([*self.match.required_columns.values(), *self.optional])
        found = (
            f"{column}.{key}"
            for row in rows
            for column in columns
            for key in unused_keys(_fields_of(row).get(column))
        )
        return list(dict.fromkeys(found))

    def _unknown_format_error(self, row: Row) -> DataError:
        fields = _fields_of(row)
        where = f"{self.file.display_name}:{row.line}"
        if not fields:
            return DataError(where, "row is empty")
        expected = [
            self.field_columns.get(name, name) for known in self.formats for name in known.required
        ]
        names = ", ".join(f"`{name}`" for name in itertools.islice(fields, MAX_NAMED_COLUMNS))
        if any(fields.get(name, "") is None for name in expected):
            names += " (some of them null)"
        guesses = [guess for key in fields if (guess := suggest_name(key, expected))]
        if guesses and guesses[0] not in fields:
            hint = f"did you mean `{guesses[0]}`?"
        else:
            hint = _missing_part_hint(fields, self.formats)
        return DataError(where, f"no known format has the columns {names}", hint=hint)


def _missing_part_hint(fields: Fields, formats: Sequence[Format]) -> str:
    """Return the part that a row lacks for the format of which it has the other part."""
    for known in formats:
        present = [name for name in known.required if fields.get(name) is not None]
        lacking = [name for name in known.required if name not in present]
        if present and lacking:
            return (
                f"{known.title} have `{lacking[0]}` beside `{present[0]}`; if another column is "
                f'that: columns = {{ {lacking[0]} = "..." }}'
            )
    return 'map your columns: columns = { prompt = "...", completion = "..." }'


def _join(names: Sequence[str]) -> str:
    shown = ", ".join(names[:MAX_NAMED_COLUMNS])
    more = len(names) - MAX_NAMED_COLUMNS
    return f"{shown} and {more:,} more" if more > 0 else shown


def _fields_of(row: Row) -> Fields:
    if isinstance(row.fields, RowError):
        raise row.fields
    return row.fields


def _all_columns(rows: Sequence[Row]) -> dict[str, object]:
    """Return the columns of some rows, each once, in order of first occurrence."""
    return dict.fromkeys(key for row in rows for key in _fields_of(row))


def _column_hint(fields: Fields, expected: str) -> str:
    guess = suggest_name(expected, list(fields))
    if guess is not None and guess != expected:
        return f"did you mean `{guess}`?"
    return "columns: " + ", ".join(itertools.islice(fields, MAX_NAMED_COLUMNS))

"""Turn the rows of a file into records: detect the format, and explain unusable rows."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from tunesmith.errors import DataError
from tunesmith.records import Record
from tunesmith.text import one_line, suggest_name
from tunesmith_data.formats import Format, FormatMatch, match_format
from tunesmith_data.guess_columns import find_usual_names
from tunesmith_data.message import unused_keys
from tunesmith_data.row import Fields, Row, RowError
from tunesmith_data.row_view import RowView, label_text
from tunesmith_data.skipped_rows import SkippedRows

if TYPE_CHECKING:
    from tunesmith_data.options import FieldOptions

FORMAT_DETECTION_ROWS = 1_000
"""Number of rows at the start of a file that determine its format."""
MAX_NAMED_COLUMNS = 6
Content: TypeAlias = Callable[[Row], str]


class RecordReader:
    """Turns the rows of one source, usually a file, into records."""

    def __init__(
        self,
        name: str,
        options: FieldOptions,
        unusable_rows: SkippedRows,
        may_be_unusable: bool = False,
    ) -> None:
        self.name = name
        self.may_be_unusable = may_be_unusable
        self.options = options
        self.unusable_rows = unusable_rows
        self.formats: tuple[Format, ...] = options.formats()
        self.field_columns = options.field_columns()
        named = (options.group, *options.slices, *self.field_columns.values())
        self._paths = [column for column in named if column is not None and "." in column]
        self.match: FormatMatch | None = None
        self.without = options.ignored_columns()
        self.optional: list[str] = []
        self.unused: list[str] = []
        self._matches: dict[tuple[str, ...], FormatMatch | None] = {}
        self._others: Counter[str] = Counter()
        """Records in a minority format, grouped by format."""

    def records(self, rows: Iterator[Row], content: Content) -> Iterator[tuple[Row, Record]]:
        """Yield the usable rows with their records, in order, and count the unusable rows.

        ``content`` returns the original text of an unusable row.
        """
        if self._paths:
            rows = map(self._with_paths, rows)
        first_rows = list(itertools.islice(rows, FORMAT_DETECTION_ROWS))
        self._choose_format(first_rows)
        for row in itertools.chain(first_rows, rows):
            try:
                if isinstance(row.fields, RowError):
                    raise row.fields
                record = self.build(row.place(self.name), row.fields)
                self._count_format(row.fields)
                yield row, record
            except RowError as error:
                self.unusable_rows.add(row.place(self.name), error, content(row))

    @property
    def copied_columns(self) -> tuple[str, ...]:
        """The columns that a record can copy as they are; empty if some are paths."""
        return () if self._paths or self.match is None else (*self.match.required_columns.values(),)

    def build_again(self, where: str, fields: Fields) -> Record:
        """Return the record of a row that has been read again."""
        return self.build(where, add_paths(fields, self._paths) if self._paths else fields)

    def _with_paths(self, row: Row) -> Row:
        if isinstance(row.fields, RowError):
            return row
        return row._replace(fields=add_paths(row.fields, self._paths))

    def build(self, where: str, fields: Fields) -> Record:
        """Return the record of a row in this file, with ``where`` as its source.

        Raises:
            RowError: the row cannot be used.
        """
        match = self._match(fields)
        if self.match is None:
            self.match = match
        if match is None:
            raise self._missing_column_error(fields)
        if self.options.system is not None and match.format.name == "text":
            raise RowError("plain text cannot have a system prompt")
        view = RowView(where, self._used(fields), match.columns, self.options.system, match.unread)
        return self._with_group_and_slices(match.format.build(view), fields)

    def _used(self, fields: Fields) -> Fields:
        """Return the row without its ignored columns."""
        if not self.without:
            return fields
        return {key: value for key, value in fields.items() if key not in self.without}

    def description(self, rows: int) -> str:
        """Describe how many of ``rows`` records have which format, and the deciding columns."""
        others = "".join(f", {n:,} of {name}" for name, n in self._others.most_common())
        optional = f", with {_join(self.optional)}" if self.optional else ""
        return f"{rows - self._others.total():,} rows of {self.match}{others}{optional}"

    def _count_format(self, fields: Fields) -> None:
        if len(self._matches) == 1:
            return  # all rows have the same columns
        match = self._match(fields)
        assert match is not None and self.match is not None, "the row became a record"
        if not match.is_compatible_with(self.match):
            self._others[str(match)] += 1

    def warnings(self) -> list[str]:
        """Return a message that lists unused columns and keys; empty if all are used."""
        return [f"{self.name}: not used: {_join(self.unused)}"] if self.unused else []

    def _choose_format(self, first_rows: Sequence[Row]) -> None:
        """Choose the most common format of the first rows."""
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
        elif first_rows and not self.may_be_unusable:
            for row in first_rows:
                assert isinstance(row.fields, RowError)
                self.unusable_rows.add(row.place(self.name), row.fields)
            self.unusable_rows.check(self.name, 0)

    def _match(self, fields: Fields) -> FormatMatch | None:
        if not self.without and None not in fields.values():
            present = tuple(fields)
        else:
            known = (key for key, value in fields.items() if value is not None)
            present = tuple(key for key in known if key not in self.without)
        if present not in self._matches:
            # The cache is bounded, because every row of a file can have new columns.
            if len(self._matches) > FORMAT_DETECTION_ROWS:
                self._matches.clear()
            self._matches[present] = match_format(
                frozenset(present), self.formats, self.field_columns
            )
        return self._matches[present]

    def _with_group_and_slices(self, record: Record, fields: Fields) -> Record:
        """Add the group and the slices that the options specify to a record."""
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
        """Explain why a row does not match any format."""
        assert self.match is not None
        if not fields:
            return RowError("row is empty")
        for column in self.match.required_columns.values():
            if column not in fields:
                return RowError(f"has no `{column}`", _column_hint(fields, column))
            if fields[column] is None:
                return RowError(f"`{column}` is null")
        raise AssertionError("bug: the row has all required columns but matched no format")

    def _check_options(self, rows: Sequence[Row]) -> None:
        """Raise an error about options that do not apply to this file."""
        options = self.options
        if options.system is not None and self.match and self.match.format.name == "text":
            raise DataError(self.name, "plain text cannot have a system prompt")
        columns = _all_columns(rows)
        named = (options.group, *options.slices, *options.ignore, *self.field_columns.values())
        for column in named:
            if column is not None and column not in columns:
                hint = _column_hint(columns, column)
                raise DataError(self.name, f"has no column `{column}`", hint=hint)

    def _optional_columns(self) -> list[str]:
        """Return the used columns that the format does not require."""
        assert self.match is not None
        matches = [match for match in self._matches.values() if match]
        required = {column for match in matches for column in match.required_columns.values()}
        columns = (column for match in matches for column in match.columns.values())
        return [column for column in dict.fromkeys(columns) if column not in required]

    def _unused_columns(self, rows: Sequence[Row]) -> list[str]:
        used = {self.options.group, *self.options.slices}
        for match in self._matches.values():
            used.update(match.columns.values() if match else ())
        return [column for column in _all_columns(rows) if column not in used]

    def _unused_keys(self, rows: Sequence[Row]) -> list[str]:
        """Return the unused keys of messages, as ``column.key``."""
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
        where = row.place(self.name)
        if not fields:
            return DataError(where, "row is empty")
        unknown = next((c for c in self.field_columns.values() if c not in fields), None)
        if unknown is not None:
            hint = _column_hint(fields, unknown)
            return DataError(where, f"has no column `{unknown}`", hint=hint)
        expected = [
            self.field_columns.get(name, name) for known in self.formats for name in known.required
        ]
        names = ", ".join(
            f"`{one_line(n, 60)}`" for n in itertools.islice(fields, MAX_NAMED_COLUMNS)
        )
        if any(fields.get(name, "") is None for name in expected):
            names += " (some are null)"
        usual = find_usual_names(fields)
        unknown_names = [key for key in fields if key not in usual]
        guesses = [guess for key in unknown_names if (guess := suggest_name(key, expected))]
        if guesses and guesses[0] not in fields:
            hint = f"did you mean `{guesses[0]}`?"
        else:
            hint = _missing_part_hint(fields, self.formats)
        return DataError(where, f"no known format has the columns {names}", hint=hint)


def _missing_part_hint(fields: Fields, formats: Sequence[Format]) -> str:
    """Return a hint about the missing column of a format that the row matches in part."""
    for known in formats:
        present = [name for name in known.required if fields.get(name) is not None]
        lacking = [name for name in known.required if name not in present]
        if present and lacking:
            return (
                f"{known.title} also need `{lacking[0]}`, not only `{present[0]}`; if it has "
                f'another name: columns = {{ {lacking[0]} = "..." }}'
            )
    prompt, answer = (one_line(name or "...", 60) for name in find_usual_names(fields))
    return (
        f'map your columns: columns = {{ prompt = "{prompt}", completion = "{answer}" }} in '
        "[data], or --prompt COLUMN --completion COLUMN"
    )


def _join(names: Sequence[str]) -> str:
    shown = ", ".join(one_line(name, 60) for name in names[:MAX_NAMED_COLUMNS])
    more = len(names) - MAX_NAMED_COLUMNS
    return f"{shown} and {more:,} more" if more > 0 else shown


def add_paths(fields: Fields, paths: Sequence[str]) -> Fields:
    """Add a column for each path that leads to a value inside another column.

    ``instances.0.output`` is the value of ``output`` in the first item of ``instances``. A column
    whose name equals the path takes precedence.
    """
    found = {path: _follow(fields, path) for path in paths if path not in fields}
    return {**fields, **{path: value for path, value in found.items() if value is not None}}


def _follow(value: object, path: str) -> object:
    """Return the value at a path, or None if the path does not exist."""
    for part in path.split("."):
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value


def _fields_of(row: Row) -> Fields:
    if isinstance(row.fields, RowError):
        raise row.fields
    return row.fields


def _all_columns(rows: Sequence[Row]) -> dict[str, object]:
    """Return the distinct columns of some rows, in order of first occurrence."""
    return dict.fromkeys(key for row in rows for key in _fields_of(row))


def _column_hint(fields: Fields, expected: str) -> str:
    guess = suggest_name(expected, list(fields))
    if guess is not None and guess != expected:
        return f"did you mean `{guess}`?"
    return "columns: " + ", ".join(itertools.islice(fields, MAX_NAMED_COLUMNS))

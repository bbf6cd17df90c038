"""The ``by-time`` splitter: test on the newest rows, as a deployed model sees later data."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Annotated, Final, NamedTuple

from pydantic import Field

from tunesmith.contracts import Split, SplitRequest
from tunesmith.errors import DataError
from tunesmith.offers import SplitterOffer
from tunesmith.options import Options
from tunesmith.records import Record

Time = Decimal | datetime

NUMBER, WITH_ZONE, WITHOUT_ZONE = "a number", "a time with a zone", "a time without a zone"
HINTS: Final = {
    frozenset((WITH_ZONE, WITHOUT_ZONE)): "write all times with a zone, such as "
    "2026-11-26T08:00+01:00, or all without one"
}
UNITS: Final = {"seconds": 1, "milliseconds": 1_000, "microseconds": 10**6, "nanoseconds": 10**9}
DAY_AND_MONTH: Final = re.compile(r"(0[1-9]|[12]\d|3[01])\.(0[1-9]|1[0-2])\.?")
FIRST_EPOCH, LAST_EPOCH = 978_307_200, 4_102_444_800
"""Unix times of the years 2001 and 2100; numbers between them are interpreted as Unix times."""


class _Seen(NamedTuple):
    source: str
    text: str


def read_times(records: Iterable[Record], column: str) -> list[Time]:
    """Return the time of each record, all in one comparable form.

    The machine's time zone has no effect, because times without a zone are compared as written.

    Raises:
        DataError: a row has no time, or times of different kinds cannot be compared.
    """
    times: list[Time] = []
    kinds: dict[str, _Seen] = {}
    units: dict[str, _Seen] = {}
    all_days = True
    for record in records:
        text = _text(record, column, is_first=not times)
        time, kind = _parse(text, record.source, column)
        kinds.setdefault(kind, _Seen(record.source, text))
        units.setdefault(_unit(time), _Seen(record.source, text))
        all_days = all_days and bool(DAY_AND_MONTH.fullmatch(text))
        times.append(time)
    _refuse_mixed(kinds, column)
    if all_days and kinds:
        source, text = kinds[NUMBER]
        what = f"`{column}` is a day and a month without a year: {text}"
        raise DataError(source, what, hint="write dates as 2026-11-26")
    if "" not in units:  # numbers that are not Unix times can have any size
        named = {f"a time in {unit} since 1970": seen for unit, seen in units.items()}
        _refuse_mixed(named, column)
    return times


def _text(record: Record, column: str, *, is_first: bool) -> str:
    text = dict(record.slices).get(column)
    if text is None:
        hint = (
            f'also list the column in data.slices, so that it is read: data.slices = ["{column}"]'
        )
        if not is_first:
            hint = "give each row a time, or remove rows without one"
        raise DataError(record.source, f"the row has no time in the column `{column}`", hint=hint)
    return text.strip()


def _parse(text: str, source: str, column: str) -> tuple[Time, str]:
    """Return a time and its kind. A time without a zone is read as UTC on every machine."""
    try:
        number = Decimal(text)
    except InvalidOperation:
        pass
    else:
        if number.is_finite():
            return number, NUMBER
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        hint = "write dates as 2026-11-26 or 2026-11-26T08:00, or as numbers"
        raise DataError(source, f"`{column}` is not a time: {text:.40}", hint=hint) from None
    if time.tzinfo is None:
        return time.replace(tzinfo=UTC), WITHOUT_ZONE
    return time, WITH_ZONE


def _unit(time: Time) -> str:
    """Return the unit of a number that looks like a Unix time, or "" for any other time."""
    if isinstance(time, datetime):
        return ""
    found = (unit for unit, n in UNITS.items() if FIRST_EPOCH * n <= time < LAST_EPOCH * n)
    return next(found, "")


def _refuse_mixed(seen: dict[str, _Seen], column: str) -> None:
    """Raise an error if times are of several kinds, and name a row of each of two kinds."""
    if len(seen) < 2:
        return
    (first, one), (second, other) = list(seen.items())[:2]
    raise DataError(
        other.source,
        f"`{column}` is {second} ({other.text:.40}), but {first} ({one.text:.40}) in {one.source}",
        hint=HINTS.get(
            frozenset((first, second)), "write the times of all rows in the same format"
        ),
    )


class ByTimeOptions(Options):
    """Options of ``by-time``: the column with the time, and the size of the validation split."""

    column: str = Field(
        min_length=1,
        description=(
            "Column with the time of each row: a date such as 2026-11-26T08:00, or a number. All "
            "times must have the same form: numbers, dates with a time zone, or dates without one. "
            "Also list the column in `data.slices`; otherwise the data loader does not read it."
        ),
    )
    validation_size: Annotated[float, Field(gt=0, lt=1)] | Annotated[int, Field(ge=0)] | None = (
        Field(
            None,
            description="Size of the validation split, as in `grouped`: the newest rows that are "
            "not test rows.",
        )
    )


@dataclass(frozen=True)
class ByTime:
    """Puts the newest rows into the test split. Rows with equal times stay together."""

    options: ByTimeOptions

    def split(self, records: Iterable[Record], request: SplitRequest) -> Split:
        """Split records by time, with the newest records as test and validation rows.

        Raises:
            DataError: a row has no time, times cannot be compared, or no rows are left for
                training.
        """
        from tunesmith_data.splits.folds import MAX_FOLD_ROWS
        from tunesmith_data.splits.sizes import count_test_rows, count_validation_rows

        times = read_times(records, self.options.column)
        order = sorted(range(len(times)), key=lambda row: (times[row], row))
        try:
            size = count_test_rows(request.test_size, len(order)) if request.test else 0
            rest, test = _cut(order, times, size)
            needed = request.needs_validation
            size = (
                count_validation_rows(self.options.validation_size, len(rest), needed=needed)
                if request.validation
                else 0
            )
            train, validation = _cut(rest, times, size)
            if not train:
                raise DataError(
                    "data.test_size",
                    f"too many rows have the same time in `{self.options.column}`, so no rows are "
                    "left for training",
                    hint="use a column with a finer time resolution, or reduce data.test_size or "
                    "split.validation_size",
                )
        except ValueError as error:
            raise DataError("data.test_size", str(error)) from None
        newest = _cut(train, times, len(train) // 5)[1]
        needs_fold = (
            request.validation and not validation and newest and len(train) <= MAX_FOLD_ROWS
        )
        return Split(
            train=sorted(train),
            validation=sorted(validation),
            test=sorted(test),
            folds=[sorted(newest)] if needs_fold else [],
        )


def _cut(order: list[int], times: Sequence[Time], size: int) -> tuple[list[int], list[int]]:
    """Return the older rows and the ``size`` newest rows. Rows with equal times stay together."""
    cut = len(order) - size
    while 0 < cut < len(order) and times[order[cut]] == times[order[cut - 1]]:
        cut -= 1
    return order[:cut], order[cut:]


BY_TIME = SplitterOffer(
    name="by-time",
    summary="the newest rows become the test and validation rows",
    config=ByTimeOptions,
    build=ByTime,
    needs=("numpy>=1.26",),
)

"""Splitter ``by-time``: train on the past, choose on the present, evaluate on the newest rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from tunesmith.contracts import Split, SplitRequest
from tunesmith.errors import DataError
from tunesmith.offers import SplitterOffer
from tunesmith.options import Options
from tunesmith.records import Record
from tunesmith_plugins.splitters.by_time.times import Time, read_times


class ByTimeOptions(Options):
    """Options of ``by-time``: the column with the time, and the validation part."""

    column: str = Field(
        min_length=1,
        description=(
            "Column with the time of each row, a date such as 2026-11-26T08:00 or a number. All "
            "times are of one kind: numbers, dates with a time zone, or dates without one. It is "
            "named in `data.slices` too, so that the data loader reads it."
        ),
    )
    validation_size: Annotated[float, Field(gt=0, lt=1)] | Annotated[int, Field(ge=0)] | None = (
        Field(
            None,
            description=(
                "Rows for everything that chooses, the newest that are not test rows: "
                "as in `grouped`."
            ),
        )
    )


@dataclass(frozen=True)
class ByTime:
    """Holds the newest rows out; rows of one time stay together."""

    options: ByTimeOptions

    def split(self, records: Iterable[Record], request: SplitRequest) -> Split:
        """Split by the time of the rows.

        Raises:
            DataError: a row has no time, times cannot be compared, or the parts would be empty.
        """
        from tunesmith_data.splits.folds import MAX_FOLDED
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
                raise ValueError("leaves nothing to train on: too many rows have the same time")
        except ValueError as error:
            raise DataError("data.test_size", str(error)) from None
        newest = _cut(train, times, len(train) // 5)[1]
        needs_fold = request.validation and not validation and newest and len(train) <= MAX_FOLDED
        return Split(
            train=sorted(train),
            validation=sorted(validation),
            test=sorted(test),
            folds=[sorted(newest)] if needs_fold else [],
        )


def _cut(order: list[int], times: Sequence[Time], size: int) -> tuple[list[int], list[int]]:
    """Return the older and the newest rows; rows of one time stay together."""
    cut = len(order) - size
    while 0 < cut < len(order) and times[order[cut]] == times[order[cut - 1]]:
        cut -= 1
    return order[:cut], order[cut:]


BY_TIME = SplitterOffer(
    name="by-time",
    summary="the newest rows are held out",
    config=ByTimeOptions,
    build=ByTime,
    needs=("numpy>=1.26",),
)

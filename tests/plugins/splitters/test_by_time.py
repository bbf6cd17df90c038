"""The ``by-time`` splitter: the past is trained on, the newest rows are held out."""

from __future__ import annotations

import time
from random import Random

import pytest
from splitting import request_for
from tables import build

from tunesmith.contracts import Split
from tunesmith.errors import DataError
from tunesmith.records import Completion
from tunesmith_plugins.splitters.by_time import BY_TIME, ByTimeOptions


def rows(times: list[str]) -> list[Completion]:
    return [
        Completion(source=f"r:{n}", prompt=f"p{n}", completion="c", slices=(("created", time),))
        for n, time in enumerate(times)
    ]


def split(times: list[str], *, validation: float | int | None = None, **request: object) -> Split:
    records = rows(times)
    splitter = BY_TIME.build(build(ByTimeOptions, column="created", validation_size=validation))
    return splitter.split(iter(records), request_for(records, **request))  # type: ignore[arg-type]


def test_the_newest_rows_are_test_and_those_before_are_for_choices() -> None:
    days = [f"2026-01-{day:02}" for day in range(1, 31)]
    order = list(range(30))
    Random(1).shuffle(order)
    result = split([days[day] for day in order], test_size=5, validation=4)
    assert sorted(order[row] for row in result.test) == [25, 26, 27, 28, 29]
    assert sorted(order[row] for row in result.validation) == [21, 22, 23, 24]
    assert sorted(order[row] for row in result.train) == list(range(21))


def test_without_validation_rows_the_newest_training_rows_are_a_fold() -> None:
    result = split([str(n) for n in range(40)], test_size=10)
    assert (len(result.train), [*map(list, result.folds)]) == (30, [[*range(24, 30)]])
    assert split(["1", "2", "3"], test_size=1).folds == [], "no row can be left out of two"
    assert split([str(n) for n in range(200)]).folds == [], "there are validation rows"
    assert split([str(n) for n in range(1500)], validation=0).folds == []


def test_numbers_and_times_of_day_are_ordered_by_their_value() -> None:
    assert list(split(["9", "10", "-1", "1e3"], test_size=1).test) == [3]
    assert list(
        split(["2026-01-02T09:00", "2026-01-02T10:30", "2025-12-31"], test_size=1).test
    ) == [1]


def test_days_and_months_without_a_year_are_not_read_as_numbers() -> None:
    """As numbers, 01.02 would be before 31.01."""
    with pytest.raises(DataError, match=r"a day and a month without a year: 31\.01"):
        split(["31.01", "01.02", "15.03"], test_size=1)
    assert list(split(["12.05", "13.20", "1.5"], test_size=1).test) == [1]


def test_rows_of_one_time_stay_together() -> None:
    assert len(split([str(n // 4) for n in range(20)], test_size=5).test) == 8
    with pytest.raises(DataError, match="too many rows have the same time"):
        split(["1"] * 10, test_size=2)


def test_parts_that_exist_are_not_split_off() -> None:
    times = [str(n) for n in range(200)]
    result = split(times, test=False)
    assert (len(result.train), len(result.validation), len(result.test)) == (180, 20, 0)
    result = split(times, validation=None, test_size=20)
    assert (len(result.train), len(result.validation), len(result.test)) == (160, 20, 20)


@pytest.mark.parametrize(("time", "text"), [("soon", "is not a time: soon"), ("", "is not a time")])
def test_a_value_that_is_no_time_is_refused_with_its_row(time: str, text: str) -> None:
    with pytest.raises(DataError, match=f"r:1: .*{text}"):
        split(["1", time, "3"], test_size=1)


@pytest.mark.parametrize("time", ["nan", "NaN", "inf", "-Infinity", "sNaN", "23:59", "2026-02-30"])
def test_numbers_that_have_no_place_are_refused(time: str) -> None:
    with pytest.raises(DataError, match="r:1: `created` is not a time"):
        split(["1", time, "3"], test_size=1)


@pytest.mark.parametrize(
    ("times", "text"),
    [
        (["2026-01-01T10:00", "2026-01-01T09:30+02:00"], "a time with a zone .* without a zone"),
        (
            ["2026-01-01", "2026-01-01T09:30Z"],
            r"is a time with a zone \(.* but a time without a zone",
        ),
        (
            ["1767225600", "2026-01-01"],
            r"is a time without a zone \(.* but a number \(1767225600\) in r:0",
        ),
        (["1767225600", "1767225600123"], "milliseconds since 1970 .* in seconds since 1970"),
        (["1767225600123", "1767225600123456789"], "nanoseconds since 1970 .* milliseconds"),
    ],
)
def test_times_that_cannot_be_compared_are_refused(times: list[str], text: str) -> None:
    with pytest.raises(DataError, match=f"r:1: .*{text}") as caught:
        split([*times, times[0]], test_size=1)
    assert caught.value.hint


def test_other_numbers_may_have_any_size() -> None:
    assert list(split(["7", "1767225600", "1767225600123"], test_size=1).test) == [2]


def test_the_zone_of_the_machine_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour that clocks skip in spring is a time like others."""
    naive = ["2026-03-29T02:30", "2026-03-29T03:10", "2026-03-29T01:59", "2026-01-29T02:30"]
    aware = ["2026-10-25T02:30+02:00", "2026-10-25T02:10+01:00", "2026-10-25T00:45Z"]
    found = set()
    for zone in ("UTC", "Europe/Berlin", "Asia/Kolkata", "Pacific/Kiritimati"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        found.add((*split(naive, test_size=1).test, *split(aware, test_size=1).test))
    monkeypatch.undo()
    time.tzset()
    assert found == {(1, 1)}


def test_fractions_of_a_second_and_long_numbers_are_exact() -> None:
    assert list(split([f"2026-01-01T00:00:00.{n:06}" for n in (2, 3, 1)], test_size=1).test) == [1]
    nanoseconds = [f"17672256001234567{n}" for n in (89, 91, 90)]
    assert list(split(nanoseconds, test_size=1).test) == [1]


def test_a_row_without_a_time_is_refused() -> None:
    records = rows(["1", "2"])
    records.append(Completion(source="r:2", prompt="p", completion="c"))
    splitter = BY_TIME.build(build(ByTimeOptions, column="created", validation_size=None))
    with pytest.raises(DataError, match=r"r:2: the row has no time") as caught:
        splitter.split(iter(records), request_for(records))
    assert caught.value.hint == "give each row a time, or remove rows without one"


def test_a_column_that_the_loader_does_not_read_is_refused() -> None:
    records = [Completion(source="r:7", prompt="p", completion="c")]
    with pytest.raises(
        DataError, match=r"r:7: the row has no time in the column `created`"
    ) as caught:
        BY_TIME.build(build(ByTimeOptions, column="created")).split(records, request_for(records))
    assert (
        caught.value.hint
        == 'also list the column in data.slices, so that it is read: data.slices = ["created"]'
    )

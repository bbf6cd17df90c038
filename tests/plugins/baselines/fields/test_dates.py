"""Dates and times of day."""

from __future__ import annotations

import datetime

import pytest

from tunesmith_plugins.baselines.fields.dates import DATE, TIME, read_date, read_time

DAY = datetime.date(2025, 3, 12)


@pytest.mark.parametrize(
    "text",
    [
        "2025-03-12", "2025/3/12", "12.03.2025", "12/3/25", "12 March 2025", "12th of March, 2025",
        "12. Mar. 2025", "March 12, 2025", "Mar 12th 2025", "12 MARCH", "march 12", "12/03",
    ],
)  # fmt: skip
def test_forms_of_a_date(text: str) -> None:
    assert read_date(text, day_first=True, year=2025) == DAY
    sentence = f"It came on {text} with the post"
    found = DATE.search(sentence)
    assert found is not None
    assert found[0] == text


def test_the_order_of_day_and_month() -> None:
    assert read_date("03/12/2025", day_first=False, year=2000) == DAY
    assert read_date("13/12/2025", day_first=False, year=2000) is None


@pytest.mark.parametrize("text", ["", "tomorrow", "32 March", "12", "1.2.3.4", "2025-13-01"])
def test_no_date(text: str) -> None:
    assert read_date(text, day_first=True, year=2025) is None


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("9:05", "09:05"), ("21.30", "21:30"), ("9 am", "09:00"), ("12:15 p.m.", "12:15"),
        ("12am", "00:00"), ("7pm", "19:00"), ("25:00", None), ("noon", None),
    ],
)  # fmt: skip
def test_times(text: str, time: str | None) -> None:
    assert read_time(text) == time
    if time:
        found = TIME.search(f"at {text}, please")
        assert found is not None
        assert read_time(found[0]) == time

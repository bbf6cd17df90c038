"""Numbers, sizes and times have one form everywhere."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.text import format_bytes
from tunesmith_evidence.number_text import (
    format_confidence,
    format_date,
    format_difference,
    format_duration_range,
    format_interval,
    format_number,
    format_rate,
    format_rows,
    format_setting,
    format_share,
    format_share_range,
    format_ticks,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0.000"),
        (0.97, "0.970"),
        (0.9867, "0.987"),
        (-1.25, "-1.250"),
        (5.61e-45, "<0.001"),
        (-4e-4, ">-0.001"),
        (99.9994, "99.999"),
        (0.9996, "0.999"),
        (-0.99999, "-0.999"),
        (1.0, "1.000"),
        (312.46, "312.5"),
        (1234.4, "1,234"),
        (3.2e30, "3.2e30"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
    ],
)
def test_measured_numbers(value: float, text: str) -> None:
    assert format_number(value) == text


@given(st.floats(-1e8, 1e8))
def test_a_number_is_read_back_within_its_precision(value: float) -> None:
    text = format_number(value)
    if text[0] in "<>":
        assert 0 < abs(value) < 0.0005
    else:
        assert float(text.replace(",", "")) == pytest.approx(value, rel=2e-3, abs=5e-4)
        assert "e" not in text


def test_differences_and_intervals_have_signs() -> None:
    assert [format_difference(x) for x in (0.89, -0.0832, 0.0, 1e-9)] == [
        "+0.890",
        "-0.083",
        "0.000",
        "<0.001",
    ]
    assert format_interval(0, 0.036993) == "[0.000, 0.037]"
    assert format_interval(-0.168, 0.008, signed=True) == "[-0.168, +0.008]"
    assert format_interval(0, 1, label="95 % CI") == "95 % CI [0.000, 1.000]"
    assert format_interval(0, math.inf, label="95 % CI") == "no interval"
    assert format_interval(-math.inf, math.inf, signed=True) == "no interval"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2e-4, "2e-4"),
        (0.01, "0.01"),
        (1.25e-5, "1.25e-5"),
        (0, "0"),
        (1500.0, "1,500"),
        (1e9, "1e9"),
        (999.7, "1,000"),
    ],
)
def test_rates_are_short(value: float, text: str) -> None:
    assert format_rate(value) == text


def test_settings_that_differ_look_different() -> None:
    assert [*map(format_setting, (2e-4, 0.1, 3.0, 12_345.0))] == ["2e-4", "0.1", "3", "12,345"]
    assert [*map(format_setting, (1.234e-4, 1.2341e-4))] == ["0.0001234", "0.00012341"]
    assert [*map(format_setting, (0.9995, 1.0, 1e-300, math.inf))] == [
        "0.9995",
        "1",
        "1e-300",
        "inf",
    ]


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0, "0 %"),
        (0.00001, "<0.01 %"),
        (0.0036, "0.36 %"),
        (0.042, "4.2 %"),
        (0.12, "12 %"),
        (0.997, "99.7 %"),
        (0.9999, "99.9 %"),
        (1, "100 %"),
    ],
)
def test_shares(share: float, text: str) -> None:
    assert format_share(share) == text


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (0, 0, "0 %"),
        (0, 1.1e-16, "up to <0.01 %"),
        (0, 0.012, "up to 1.2 %"),
        (0.0036, 0.012, "0.36 % to 1.2 %"),
        (0.0121, 0.0122, "1.2 %"),
    ],
)
def test_ranges_of_shares(low: float, high: float, text: str) -> None:
    assert format_share_range(low, high) == text


def test_the_numbers_of_an_axis_have_the_same_decimals() -> None:
    assert format_ticks([0, 0.2, 0.4]) == ["0.0", "0.2", "0.4"]
    assert format_ticks([0, 50, 100]) == ["0", "50", "100"]
    assert format_ticks([0, 1e-4, 2e-4]) == ["0", "1e-4", "2e-4"]
    assert format_ticks([0.6930, 0.6931, 0.6932]) == ["0.6930", "0.6931", "0.6932"]
    assert format_ticks([0.05]) == ["0.05"]


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (0.0001, 0.004, "under 0.01 s"),
        (0.0001, 0.4, "up to 0.40 s"),
        (0.4, 1.8, "0.40 s to 1.8 s"),
        (42.1, 42.2, "42 s"),
    ],
)
def test_ranges_of_durations(low: float, high: float, text: str) -> None:
    assert format_duration_range(low, high) == text


def test_sizes_and_dates() -> None:
    assert format_bytes(3_774_370_723) == "3.5 GiB"
    assert format_date("2026-11-28T04:45:24+01:00") == "28 Nov 2026, 03:45 UTC"
    assert format_date("2026-01-02T00:00:00") == "2 Jan 2026, 00:00 UTC"
    assert format_date("yesterday") == "yesterday"


@pytest.mark.parametrize(
    ("level", "text"),
    [
        (0.95, "95 %"), (0.9875, "98.8 %"), (0.99, "99 %"), (0.999, "99.9 %"),
        (1 - 0.001 / 6, "99.983 %"), (0.99995, "99.995 %"), (0.5, "50 %"),
    ],
)  # fmt: skip
def test_no_level_of_confidence_is_certainty(level: float, text: str) -> None:
    assert format_confidence(level) == text


def test_rows_and_groups_are_counted_in_words() -> None:
    assert format_rows(1, 1, "test row") == "1 test row"
    assert format_rows(1_200, 1_200, "test row") == "1,200 test rows"
    assert format_rows(5, 1, "row") == "5 rows of 1 group"
    assert format_rows(1_200, 40) == "1,200 of 40 groups"

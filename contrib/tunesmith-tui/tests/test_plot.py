"""Drawings: what is where, within the given width."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from sample_runs import measure

from tunesmith_tui.plot import Curve, draw_band, draw_interval, find_ends, format_axis, plot
from tunesmith_tui.series import Series


def make_series(values: dict[int, float]) -> Series:
    series = Series()
    for step, value in values.items():
        series.add(step, value)
    return series


@pytest.mark.parametrize("width", [40, 80, 160])
@pytest.mark.parametrize("count", [2, 30, 3_000])
def test_it_has_its_size(width: int, count: int) -> None:
    noise = random.Random(count)
    series = make_series({n: noise.gauss(1, 0.1) for n in range(1, count + 1)})
    lines = plot(Curve("loss", series, make_series({2: 1.0}), 2 * count), width, 6)
    assert len(lines) == 8 and max(line.cell_len for line in lines) <= width


def test_a_falling_curve_falls_and_stops_where_the_run_is() -> None:
    series = make_series({n: 100.0 - n for n in range(1, 51)})
    rows = [line.plain[10:] for line in plot(Curve("loss", series, None, 100), 60, 5)[1:-1]]
    places = [row.index("•") for row in rows]
    assert places == sorted(places) and max(len(row) for row in rows) <= 26  # half the steps


def test_noise_is_drawn_as_an_interval() -> None:
    noise = random.Random(0)
    series = make_series({n: noise.gauss(0, 1) for n in range(1, 2_000)})
    drawn = "".join(line.plain[10:] for line in plot(Curve("loss", series), 60, 8)[1:-1])
    assert drawn.count("│") > 20
    few = make_series({n: noise.gauss(0, 1) for n in range(1, 40)})
    drawn = "".join(line.plain[10:] for line in plot(Curve("loss", few), 60, 8)[1:-1])
    assert "│" not in drawn  # one step in each column


def test_few_or_equal_values_need_no_plot() -> None:
    assert plot(Curve("loss", make_series({1: 1.0})), 60, 8) == []
    (line,) = plot(Curve("rate", make_series({1: 2.0, 2: 2.0})), 60, 8)
    assert line.plain == "rate  2.000 at step 2  constant"


def test_a_scale_has_finite_ends() -> None:
    wide = replace(measure("a", 0.5), low=float("-inf"), high=float("inf"))
    assert find_ends([wide, measure("b", 0.75)]) == pytest.approx((0.5, 0.85))
    assert find_ends([wide]) == (0.5, 0.5) and find_ends([]) == (0.0, 0.0)


@pytest.mark.parametrize("width", [20, 60])
def test_large_numbers_are_not_cut(width: int) -> None:
    series = make_series({10**9: 1_234_567.0, 2 * 10**9: 2_345_678.0})
    lines = [line.plain for line in plot(Curve("speed", series, format=format_axis), width, 5)]
    assert "2,345,678 │" in lines[1] and "1,234,567 │" in lines[-2] and "2,000,000,000" in lines[-1]


def test_intervals_and_bands() -> None:
    assert draw_interval(0.5, 0.25, 0.75, (0.0, 1.0), 9) == "  ├─●─┤"
    assert draw_interval(0.5, float("-inf"), 0.75, (0.0, 1.0), 9) == ""
    assert draw_interval(0.5, 0.75, 1.0, (0.0, 1.0), 9) == "    ● ├─┤"  # outside of it
    assert draw_interval(0.5, 0.25, 0.75, (0.0, 1.0), 0) == ""
    assert draw_interval(1.0, 1.0, 1.0, (1.0, 1.0), 9) == "●"
    band = draw_band(10, 20, 15, 24)
    assert band.index("●") in range(band.index("░"), band.rindex("░")) and len(band) == 24
    late = draw_band(10, 20, 40, 24)
    assert late.index("●") > late.rindex("░")
    assert len(draw_band(0, 0, 0, 24)) == 24

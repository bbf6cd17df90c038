"""Charts follow their values, keep to their size, and show what is on an axis."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.statistics import Interval
from tunesmith_evidence.report.charts import (
    MAX_OVERLAID,
    IntervalBar,
    choose_log_ticks,
    choose_ticks,
    draw_curve,
    draw_intervals,
    draw_overlay,
    draw_reliability,
)
from tunesmith_evidence.report.confidence import ConfidentRows
from tunesmith_evidence.report.curves import Curve


def parse(svg: str) -> ET.Element:
    return ET.fromstring(svg)


def points(line: ET.Element) -> list[tuple[float, float]]:
    pairs = (pair.split(",") for pair in line.attrib["points"].split())
    return [(float(x), float(y)) for x, y in pairs]


def percent(element: ET.Element, name: str) -> float:
    return float(element.attrib[name].rstrip("%"))


def curve(*values: float, validation: tuple[tuple[int, float], ...] = ()) -> Curve:
    return Curve("loss", "nats", list(enumerate(values, 1)), validation)


def test_a_curve_follows_its_values() -> None:
    svg = parse(draw_curve(Curve("t", "", [(1, 0.0), (2, 1.0), (4, 0.5)])))
    (line,) = svg.iter("polyline")
    (x1, y1), (x2, y2), (x3, y3) = points(line)
    assert (x1, x3) == (0, 1000) and x3 - x2 == pytest.approx(2 * (x2 - x1), abs=2)
    assert y2 < y3 < y1, "higher values are drawn higher"
    assert y3 == pytest.approx((y1 + y2) / 2, abs=0.2)


def test_the_axes_have_titles() -> None:
    texts = [text.text for text in parse(draw_curve(curve(3, 2, 1))).iter("text")]
    assert texts[0] == "loss (nats)" and texts[-1] == "step"
    texts = [text.text for text in parse(draw_curve(curve(3, 2, 1), log=True)).iter("text")]
    assert texts[0] == "loss (nats), log scale"


def test_equal_ratios_are_equal_distances_on_a_log_scale() -> None:
    (line,) = parse(draw_curve(curve(100, 10, 1), log=True)).iter("polyline")
    y1, y2, y3 = (y for _, y in points(line))
    assert y2 - y1 == pytest.approx(y3 - y2, abs=0.2) and y2 > y1


def test_a_log_scale_leaves_out_what_it_cannot_show() -> None:
    assert draw_curve(curve(1.0, 0.0), log=True) == ""
    (line,) = parse(draw_curve(curve(1.0, 0.0, 2.0), log=True)).iter("polyline")
    assert len(points(line)) == 2


def test_too_few_values_are_no_curve() -> None:
    assert draw_curve(curve(1.0)) == "" and draw_curve(Curve("t", "", ())) == ""


def test_a_long_curve_is_smoothed_over_the_raw_one() -> None:
    kinds = [e.attrib["class"] for e in parse(draw_curve(curve(*range(40)))).iter("polyline")]
    assert kinds == ["raw", "line"]
    kinds = [e.attrib["class"] for e in parse(draw_curve(curve(1, 2))).iter("polyline")]
    assert kinds == ["line"]


def test_validation_values_are_on_the_same_scales_with_marks() -> None:
    svg = parse(draw_curve(curve(3, 2, 1, validation=((0, 3.0), (3, 2.0)))))
    line, validation = svg.iter("polyline")
    assert validation.attrib["class"] == "validation"
    assert points(validation)[0][1] == points(line)[0][1] and points(validation)[1] == (
        1000,
        points(line)[1][1],
    )
    marks = [*svg.iter("circle")]
    assert [mark[0].text for mark in marks] == [
        "step 0, validation rows: 3.000",
        "step 3, validation rows: 2.000",
    ]
    assert [percent(mark, "cx") for mark in marks] == [0, 100]


def test_intervals_share_one_scale() -> None:
    bars = [IntervalBar("a", 0.5, 0.25, 0.75), IntervalBar("b", 0.75, 0.5, 1.0, emphasized=True)]
    svg = parse(draw_intervals(bars, "accuracy"))
    first, second = svg.findall("g")
    for group, bar in zip((first, second), bars, strict=True):
        line, circle = group.find("line"), group.find("circle")
        assert line is not None and circle is not None
        ends = [percent(line, "x1"), percent(circle, "cx"), percent(line, "x2")]
        assert ends == [100 * bar.low, 100 * bar.value, 100 * bar.high]
    band = svg.find("rect")
    assert band is not None and (percent(band, "x"), percent(band, "width")) == (50, 50)
    texts = [text.text for text in svg.iter("text")]
    assert "accuracy" in texts and "0.500 [0.250, 0.750]" in texts


def test_intervals_that_are_not_finite_are_skipped() -> None:
    assert draw_intervals([IntervalBar("a", 0.5, -math.inf, math.inf)], "t") == ""


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e9))
def test_ticks_are_few_and_inside_the_range(low: float, span: float) -> None:
    found = choose_ticks(low, low + span)
    assert len(found) <= 6
    assert all(low - span * 1e-6 <= tick <= low + span * (1 + 1e-6) for tick in found)


@given(st.floats(1e-12, 1e6), st.floats(1.01, 1e12))
def test_log_ticks_are_few_and_inside_the_range(low: float, ratio: float) -> None:
    found = choose_log_ticks(low, low * ratio)
    assert 1 <= len(found) <= 7
    assert all(low * (1 - 1e-6) <= tick <= low * ratio * (1 + 1e-6) for tick in found)


def test_overlaid_curves_share_their_axes() -> None:
    long = curve(4, 3, 2, 1, validation=((1, 4.0), (4, 2.0)))
    svg = parse(draw_overlay({"a": long, "<b>": curve(3, 2)}))
    own, dashed, other = svg.iter("polyline")
    assert [line.attrib["class"] for line in (own, dashed, other)] == [
        "own c0",
        "dashed c0",
        "own c1",
    ]
    assert own[0].text == dashed[0].text == "a" and other[0].text == "<b>"
    assert points(own)[1][1] == points(other)[0][1], "a loss of 3 is at the same height"
    assert points(other)[1][0] == points(own)[1][0], "step 2 is at the same place"
    assert points(dashed)[0][1] == points(own)[0][1]


def test_an_overlay_has_a_limited_number_of_curves() -> None:
    svg = parse(draw_overlay({str(n): curve(3, 2) for n in range(20)}))
    assert len([*svg.iter("polyline")]) == MAX_OVERLAID
    assert draw_overlay({}) == "" and draw_overlay({"a": Curve("t", "", ())}) == ""


def test_calibrated_confidences_lie_on_the_diagonal() -> None:
    groups = [
        ConfidentRows(0.25, Interval(0.25, 0.0, 0.5, 40)),
        ConfidentRows(0.9, Interval(0.6, 0.4, 0.8, 12)),
    ]
    svg = parse(draw_reliability(groups))
    (diagonal,) = svg.iter("polyline")
    (_, bottom), (_, top) = points(diagonal)
    first, second = (group for group in svg.iter("g"))
    (line,), (dot,) = first.iter("line"), first.iter("circle")
    assert percent(dot, "cx") == 25.0 and percent(second.find("circle"), "cx") == 90.0
    assert float(dot.attrib["cy"]) == pytest.approx(bottom + 0.25 * (top - bottom), abs=0.1)
    assert float(line.attrib["y1"]) == pytest.approx(bottom, abs=0.1)
    assert float(line.attrib["y2"]) == pytest.approx((bottom + top) / 2, abs=0.1)
    texts = [text.text for text in svg.iter("text")]
    assert texts[0] == "right answers (%)" and texts[-1] == "confidence (%)"
    title = second.find("title")
    assert title is not None and title.text == "12 rows"

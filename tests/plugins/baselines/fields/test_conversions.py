"""Conversions of spans into values."""

from __future__ import annotations

import pytest

from tunesmith_plugins.baselines.fields.conversions import find_templates, list_conversions


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Anna  Schmidt", "Anna Schmidt"), ("PRINTER", "printer"), ("abc", "ABC"),
        ("anna SCHMIDT", "Anna Schmidt"), ("Cost Center", "cost_center"), ("a B", "a-b"),
        ("Anna Schmidt", "Schmidt, Anna"), ("Anna Schmidt", "Schmidt"), ("no toner", "No toner."),
        ("1,234.50", "1234.5"), ("12", "12.00"), ("12.50", "12.5"), ("12", "12.0"),
        ("12.34", "1234"), ("2", "120"), ("two", "2"), ("+49 (30) 123-456", "4930123456"),
        ("ab-12 3", "AB123"), ("3 April 2024", "2024-04-03"), ("04/03/2024", "03.04.2024"),
        ("3pm", "15:00"), ("Anna Schmidt", "Schmidt, A."), ("Anna Schmidt", "A. Schmidt"),
    ],
)  # fmt: skip
def test_some_conversion_gives_the_value(text: str, value: str) -> None:
    given = {conversion.convert(text) for conversion in list_conversions(["2024"])}
    assert value in given


def test_templates_hold_the_signs_that_all_values_share() -> None:
    values = ["ORD-48213", "ORD-42001", "ORD-49999", "ORD-48214"]
    [template] = find_templates(values)
    assert template.name == "like AAA-99999"
    for text in ("48213", "ORD 48213", "ord48213", "#48213", "8213"):
        assert template.convert(text) == "ORD-48213", text
    for text in ("482133", "ABCDEFGH", "", "4a213"):
        assert template.convert(text) is None, text


def test_templates_need_several_values_with_digits_and_other_signs() -> None:
    assert find_templates(["A-1", "A-2"]) == []
    assert find_templates(["12", "13", "14", "15"]) == []
    assert find_templates(["red", "tan", "sky"]) == []
    names = [t.name for t in find_templates([f"B{n}/{n}" for n in range(10)] + ["Q1"] * 3)]
    assert names == ["like A9/9"]


def test_dates_without_a_year_get_the_most_frequent_one() -> None:
    values = ["2023-01-01", "2024-01-01", "2024-02-01"]
    given = {conversion.convert("5 May") for conversion in list_conversions(values)}
    assert "2024-05-05" in given

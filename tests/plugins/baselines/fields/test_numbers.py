"""Numbers in digits and in words."""

from __future__ import annotations

from decimal import Decimal

import pytest

from tunesmith_plugins.baselines.fields.numbers import NUMBER, read_number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("12", "12"), ("1,234", "1234"), ("1,234.50", "1234.50"), ("1.234,50", "1234.50"),
        ("12.5", "12.5"), ("12,5", "12.5"), ("-3", "-3"), ("1 234 567", "1234567"),
        ("1'200", "1200"), ("2k", "2000"), ("1.5 million", "1500000"), ("twelve", "12"),
        ("twenty-one", "21"), ("Forty two", "42"), ("a couple of", "2"),
    ],
)  # fmt: skip
def test_numbers(text: str, number: str) -> None:
    assert read_number(text) == Decimal(number)
    assert text in [match[0] for match in NUMBER.finditer(f"we need {text} of them")]


@pytest.mark.parametrize("text", ["$12.50", "12.50$", "12.50 €", "#12.50"])
def test_signs_around_a_number(text: str) -> None:
    assert read_number(text) == Decimal("12.50")
    found = NUMBER.search(f"paid {text} today")
    assert found is not None
    assert read_number(found[0]) == Decimal("12.50")


@pytest.mark.parametrize(
    "text", ["-12.5", "\N{MINUS SIGN}12.5", "-$12.50", "\N{MINUS SIGN}€12.50", "$-12.50", "-12.5%"]
)
def test_negative_numbers(text: str) -> None:
    assert read_number(text) == Decimal("-12.5")
    for sentence in (f"paid {text} today", text, f"({text})", f"x={text}"):
        found = NUMBER.search(sentence)
        assert found is not None
        assert read_number(found[0]) == Decimal("-12.5"), sentence


@pytest.mark.parametrize(
    "text", ["3-5", "3–5", "3 - 5", "- 3\n- 5", "3 \N{MINUS SIGN} 5", "A3-B-5"]
)
def test_dashes_are_no_signs(text: str) -> None:
    assert "-" not in "".join(match[0] for match in NUMBER.finditer(text))


@pytest.mark.parametrize("text", ["", "x", "12-13", "1.2.3 x", "-", "$", "- 5"])
def test_no_number(text: str) -> None:
    assert read_number(text) is None

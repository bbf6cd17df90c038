"""The number that an answer ends with, against answers worked by hand."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith_evidence.answers.numbers import find_number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("42", "42"),
        ("#### 42", "42"),
        ("First 7, then 8.\n#### 1,234", "1234"),
        ("#### $1,234.50 dollars 3", "1234.50"),
        ("#### 5 #### 6", "6"),
        ("6 apples #### none", None),
        ("she has 12 apples.", "12"),
        ("3 + 4 = 7", "7"),
        ("-5", "-5"),
        ("\u22125 degrees", "-5"),
        ("1.5e3", "1500"),
        ("0.25%", "0.25"),
        (".5", "0.5"),
        ("it weighs 42kg", "42"),
        ("it is 1 000 000 m", "1000000"),
        ("12,34", "34"),
        ("in 2024, 5", "5"),
        ("\\boxed{17} is it, of 20", "17"),
        ("<think>99</think> 7", "7"),
        ("no number", None),
        ("", None),
        ("v2", None),
        ("1,234,567.8", "1234567.8"),
    ],
)
def test_english_numbers(text: str, number: str | None) -> None:
    assert find_number(text) == (None if number is None else Decimal(number))


@pytest.mark.parametrize(
    ("text", "number"), [("1.234,50 Euro", "1234.50"), ("3,5", "3.5"), ("1.000", "1000")]
)
def test_numbers_with_a_decimal_comma(text: str, number: str) -> None:
    assert find_number(text, ",") == Decimal(number)


@given(
    number=st.decimals(min_value=-(10**9), max_value=10**9, places=2),
    decimal=st.sampled_from([".", ","]),
    grouped=st.booleans(),
)
def test_written_numbers_are_read_back(
    number: Decimal, decimal: Literal[".", ","], grouped: bool
) -> None:
    text = f"{number:,.2f}" if grouped else f"{number:.2f}"
    if decimal == ",":
        text = text.translate(str.maketrans(".,", ",."))
    assert find_number(f"The result: {text}", decimal) == number

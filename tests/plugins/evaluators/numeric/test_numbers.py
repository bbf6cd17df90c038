"""The number that an answer ends with, against answers worked by hand."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith_plugins.evaluators.numeric.numbers import find_number


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
        ("12,34", None),
        ("2,5 kg", None),
        ("#### 3,5", None),
        ("1.234.567", None),
        ("1.234,56", None),
        ("on 12.03.2024", None),
        ("of 3,5 to 7.", "7"),
        ("in 2024, 5", "5"),
        ("\\boxed{17} is it, of 20", "17"),
        ("<think>99</think> 7", "7"),
        ("no number", None),
        ("", None),
        ("v2", None),
        ("1,234,567.8", "1234567.8"),
        ("#### 1/2", "0.5"),
        ("it is 3/2.", "1.5"),
        ("-1/4", "-0.25"),
        ("1,000/8 of them", "125"),
        ("\\boxed{\\frac{3}{4}}", "0.75"),
        ("so $-\\dfrac{1}{4}$", "-0.25"),
        ("1/0", "0"),
        ("on 3/4/2024", "2024"),
        ("#### 3/4/2024", "3"),
        ("30 km/h", "30"),
        ("1/2.5", "2.5"),
        ("-1234567890123456789012345678901234567890", "-1234567890123456789012345678901234567890"),
    ],
)
def test_english_numbers(text: str, number: str | None) -> None:
    assert find_number(text) == (None if number is None else Decimal(number))


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("- 18 eggs", "18"),
        ("She needs:\n- 12 cups\n- 18 eggs", "18"),
        ("  - 18 eggs", "18"),
        ("* 18 eggs", "18"),
        ("- $18", "18"),
        ("Total - 18 eggs", "18"),
        ("so it is - I think - 18", "18"),
        ("the total \N{EM DASH} 18", "18"),
        ("the total\N{EM DASH}18", "18"),
        ("the total -- 18", "18"),
        ("the total--18", "18"),
        ("pages 3 - 5", "5"),
        ("pages 3-5", "5"),
        ("pages 3\N{EN DASH}5", "5"),
        ("pages 3 \N{EN DASH} 5", "5"),
        ("3\N{MINUS SIGN}5", "5"),
        ("2024-05-01", "1"),
        ("555-0143", "143"),
        ("12 - 7 = 5", "5"),
        ("it is 12 - 7", "7"),
        ("it is 12 \N{MINUS SIGN} 7", "7"),
        ("12 apples - 7 apples", "7"),
        ("(2 + 1)-3", "3"),
        ("20%-5%", "5"),
        ("COVID-19", "19"),
        ("a 5-year plan", "5"),
        ("($5)", "5"),
        ("(5)", "5"),
        ("5 -\n6", "6"),
        ("**Total:** - 18", "18"),
        ("> - 18 eggs", "18"),
        ("eggs =\n- 18", "18"),
    ],
)
def test_dashes_are_no_signs(text: str, number: str) -> None:
    assert find_number(text) == Decimal(number)
    assert find_number(text.replace("\n", "\r\n")) == Decimal(number)


@pytest.mark.parametrize(
    "text",
    [
        "-5", "It is -5.", "\N{MINUS SIGN}5", "(-5)", "[3, -5]", "x=-5", "x = -5", "x = - 5",
        "x =\N{MINUS SIGN} 5", "between 3 and -5", "from 3 to -5", "Answer:-5", "**-5**",
        "-$5", "$-5", "-€ 5", "3, -5", "3 -5", "2 * -5", "2 * - 5", "(- 5)", "3 - -5", "#### -5",
        "#### - 5", "7 \\boxed{-5}", "\\boxed{- 5}", "- -5", "- 3\n- -5", "\"-5\"", "-5e0",
        "-500e-2", "-500e\N{MINUS SIGN}2", "it fell by 3 °C to -5 °C",
    ],
)  # fmt: skip
def test_negative_numbers(text: str) -> None:
    assert find_number(text) == -5


@pytest.mark.parametrize(
    ("text", "number"), [("1.234,50 Euro", "1234.50"), ("3,5", "3.5"), ("1.000", "1000")]
)
def test_numbers_with_a_decimal_comma(text: str, number: str) -> None:
    assert find_number(text, ",") == Decimal(number)
    assert find_number("1,234.50", ",") is None


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

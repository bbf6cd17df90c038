"""Numbers are read as people write them."""

from __future__ import annotations

import re
from decimal import Decimal

import pytest

from tunesmith_evidence.answers.numbers import NUMBER, NUMERAL, read_number, read_numeral


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", "5"), ("0.125", "0.125"), ("0,125", "0.125"), ("2,5", "2.5"), (".5", "0.5"),
        ("1,000", "1000"), ("5 000", "5000"), ("5\u202f000", "5000"), ("1,234,567.5", "1234567.5"),
        ("12,3456", "12.3456"), ("1000.50", "1000.5"), ("1.000", "1"), ("1.250,50", "1250.5"),
        ("5'000", "5000"), ("1’234’567.5", "1234567.5"),
    ],
)  # fmt: skip
def test_a_number_is_read_whole(text: str, value: str) -> None:
    (found,) = re.findall(NUMBER, f"about {text} of them")
    assert found == text and read_number(found) == Decimal(value)


@pytest.mark.parametrize("text", ["5, 400", "5 40", "030 12", "5 and 400"])
def test_two_numbers_stay_two(text: str) -> None:
    assert len(re.findall(NUMBER, text)) == 2


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("seven", 7), ("Twenty-five", 25), ("a hundred", 100), ("two hundred and five", 205),
        ("one hundred twenty-five", 125), ("five thousand", 5_000),
        ("sixteen thousand four hundred and ten", 16_410),
    ],
)  # fmt: skip
def test_a_number_in_words_is_read_whole(text: str, value: int) -> None:
    (found,) = re.findall(NUMERAL, f"about {text} of them")
    assert text.endswith(found) and read_numeral(found) == value
    assert not re.findall(NUMERAL, "often a stone is anyone's, and none weighs a tenth")

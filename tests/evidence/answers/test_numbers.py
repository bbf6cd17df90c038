"""Numbers are read as people write them."""

from __future__ import annotations

import re
from decimal import Decimal

import pytest

from tunesmith_evidence.answers.numbers import NUMBER, read_number


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", "5"), ("0.125", "0.125"), ("0,125", "0.125"), ("2,5", "2.5"), (".5", "0.5"),
        ("1,000", "1000"), ("5 000", "5000"), ("5\u202f000", "5000"), ("1,234,567.5", "1234567.5"),
        ("12,3456", "12.3456"), ("1000.50", "1000.5"), ("1.000", "1"),
    ],
)  # fmt: skip
def test_a_number_is_read_whole(text: str, value: str) -> None:
    (found,) = re.findall(NUMBER, f"about {text} of them")
    assert found == text and read_number(found) == Decimal(value)


@pytest.mark.parametrize("text", ["5, 400", "5 40", "030 12", "5 and 400"])
def test_two_numbers_stay_two(text: str) -> None:
    assert len(re.findall(NUMBER, text)) == 2

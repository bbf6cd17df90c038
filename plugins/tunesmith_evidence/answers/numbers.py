"""Find the numbers in a text as people write them: ``1,000``, ``2,5``, ``.5``, ``twenty-five``."""

from __future__ import annotations

import re
from decimal import Decimal

__all__ = ["NUMBER", "NUMERAL", "read_number", "read_numeral"]

_SPACE = " \u00a0\u202f"
_GROUPED = rf"[1-9]\d{{0,2}}(?:[,'’{_SPACE}]\d{{3}})+(?!\d)(?:\.\d+)?"
_GROUPED_BY_DOTS = r"[1-9]\d{0,2}(?:\.\d{3})+,\d+"
NUMBER = rf"(?:{_GROUPED_BY_DOTS}|{_GROUPED}|\d+(?:[.,]\d+)?|[.,]\d+)"
"""Pattern of a number, without a sign."""

_VALUES = {
    **{
        word: value
        for value, word in enumerate((
            "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
            "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen",
            "eighteen", "nineteen",
        ), 1)
    },
    "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80,
    "ninety": 90, "hundred": 100, "thousand": 1_000,
}  # fmt: skip
_WORD = rf"(?:{'|'.join(sorted(_VALUES, key=len, reverse=True))})"
NUMERAL = rf"(?i:\b{_WORD}(?:(?:[\s-]|\sand\s){{1,3}}{_WORD}){{0,9}}\b)"
"""Pattern of a whole number in English words, below a million."""


def read_number(text: str) -> Decimal:
    """Return the value of a text that matches :data:`NUMBER`.

    A comma or space before exactly three digits separates thousands, unless the number begins with
    a zero. Any other comma is a decimal point.
    """
    if re.fullmatch(_GROUPED_BY_DOTS, text):
        text = text.replace(".", "")
    if re.fullmatch(_GROUPED, text):
        return Decimal(re.sub(rf"[,'’{_SPACE}]", "", text))
    return Decimal(text.replace(",", "."))


def read_numeral(text: str) -> int:
    """Return the value of a text that matches :data:`NUMERAL`."""
    total = rest = 0
    for word in re.findall(_WORD, text.casefold()):
        match _VALUES[word]:
            case 1_000:
                total, rest = (total + rest or 1) * 1_000, 0
            case 100:
                rest = (rest or 1) * 100
            case value:
                rest += value
    return total + rest

"""Parse numbers in texts, written in digits or in words."""

from __future__ import annotations

import re
from decimal import Decimal
from functools import lru_cache

_UNITS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
WORDS = {
    **{word: number for number, word in enumerate(_UNITS)},
    **{word: 10 * number for number, word in enumerate(_TENS, 2)},
    **{
        f"{ten}{joint}{unit}": 10 * t + u
        for t, ten in enumerate(_TENS, 2)
        for u, unit in enumerate(_UNITS[:10])
        for joint in ("-", " ")
        if u
    },
    "a dozen": 12, "dozen": 12, "half a dozen": 6, "a couple of": 2, "a couple": 2, "once": 1,
    "twice": 2, "first": 1, "second": 2, "third": 3, "fourth": 4, "fifth": 5, "single": 1,
    "hundred": 100, "a hundred": 100, "one hundred": 100, "a thousand": 1000, "a": 1, "an": 1,
}  # fmt: skip
"""Number words and their values."""
_WORDS = "|".join(sorted(map(re.escape, WORDS), key=len, reverse=True))
NUMBER = re.compile(
    rf"(?<![\w.,])(?:[-+\u2212][€$£]?)?\d+(?:[.,'’ ]\d{{3}})*(?:[.,]\d+)?"
    rf"(?:\s?(?:k|m|thousand|million)\b)?"
    rf"|(?<=[€$£#])\d[\d.,]*\d|\d+(?=[€$£%])|\b(?:{_WORDS})\b",
    re.I,
)
"""Matches any number in a text, in digits or in words."""
_DIGITS = re.compile(r"([-+\u2212]?)[€$£]?(\d[\d.,'’ ]*?)\s?(k|m|thousand|million)?", re.I)
_FACTORS = {"": 1, "k": 1_000, "thousand": 1_000, "m": 1_000_000, "million": 1_000_000}


@lru_cache(4_096)
def read_number(text: str) -> Decimal | None:
    """Parse a text as a number, such as ``1,234``, ``$12.50``, ``3k`` or ``half a dozen``.

    A single separator before three digits separates thousands, so ``1.234`` is 1234.

    Returns:
        The number, or None if the text is not a number.
    """
    text = " ".join(text.casefold().split())
    if text in WORDS:
        return Decimal(WORDS[text])
    match = _DIGITS.fullmatch(text.strip("#€$£% "))
    if match is None:
        return None
    digits = re.sub(r"['’ ]", "", match[2])
    last = max(digits.rfind("."), digits.rfind(","))
    decimals = digits[last + 1 :] if last >= 0 else ""
    # A separator before three digits separates thousands; any other one is the decimal point.
    is_group = len(decimals) == 3 and not ("." in digits and "," in digits)
    if last >= 0 and not is_group:
        digits = re.sub(r"[.,]", "", digits[:last]) + "." + decimals
    else:
        digits = re.sub(r"[.,]", "", digits)
    return Decimal(match[1].replace("\u2212", "-") + digits) * _FACTORS[match[3] or ""]

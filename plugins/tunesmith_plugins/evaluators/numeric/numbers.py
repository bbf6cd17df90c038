"""Find the final number of an answer."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from typing import Literal

from tunesmith_evidence.answers.normalize import strip_reasoning

_MARKED = re.compile(r"####\s*((?:(?!####).)*)")
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
_FRACTION = re.compile(r"\\[dt]?frac\{(\d+)\}\{(\d+)\}")
_DENOMINATOR = re.compile(r"/(\d*[1-9]\d*)(?![/.,]?\d)(?!\w)")
_MORE_BEFORE = re.compile(r"\d[.,]")
_MORE_AFTER = re.compile(r"[.,]\d")
_MINUS = "\u2212"
# Directly after one of these, a minus is a dash, a range or a subtraction.
_DASHES_AND_ENDS = ("-", _MINUS, "–", "—", ")", "]", "}", "%", "°", "€", "£", "¥", "²", "³")
_OPERATORS = ("=", "≤", "≥", "≈", "+", " *", "×", "·", "/", "÷", "^", "(", "[", "{", "#")
DecimalSeparator = Literal[".", ","]


def _number_pattern(decimal: DecimalSeparator) -> re.Pattern[str]:
    group = "," if decimal == "." else r"\."
    point = re.escape(decimal)
    digits = rf"(?:\d{{1,3}}(?:(?:{group}|['’_\u00a0\u202f ])\d{{3}})+(?!\d)|\d+)"
    return re.compile(
        rf"(?<![\w{point}])(?:([-+\u2212])(\s?))?[$€£¥]?\s?({digits}(?:{point}\d+)?|{point}\d+)"
        rf"(?:[eE]([-+\u2212]?\d{{1,3}})(?![\w]))?"
    )


_PATTERNS: dict[DecimalSeparator, re.Pattern[str]] = {
    ".": _number_pattern("."),
    ",": _number_pattern(","),
}


def find_number(text: str, decimal: DecimalSeparator = ".") -> Decimal | None:
    """Return the number after the last ``####``, in the last ``\\boxed{}``, or the last number.

    If there is a ``####`` or ``\\boxed{}``, numbers before it do not count. The result is None if
    there is no number, or if more digits follow or precede it after a separator: with a decimal
    point, ``3,5`` is not 5, and ``12.03.2024`` is not 12.03. Thousands separators, a currency sign
    before the number and any unit after it are ignored. ``1.5e3`` is 1500, and ``1/2`` is 0.5.

    A minus sign counts if it directly precedes the number and does not directly follow a word or
    number: ``- 18 eggs`` is a list item, and ``3-5`` and ``12 - 7`` contain no negative number.
    After an operator, an opening bracket or ``####``, a space may follow the sign: ``x = - 5``.
    Parentheses around a number do not make it negative.
    """
    text = _FRACTION.sub(r"\1/\2", strip_reasoning(text))
    marked = [*_MARKED.finditer(text)] or [*_BOXED.finditer(text)]
    start, end = marked[-1].span(1) if marked else (0, len(text))
    matches = list(_PATTERNS[decimal].finditer(text, start, end))
    if not matches:
        return None
    found, denominator = _choose(text, matches[:1] if marked else matches[-2:], end)
    before = text[: found.start(3)][-2:]
    if _MORE_BEFORE.fullmatch(before) or _MORE_AFTER.match(text, found.end()):
        return None
    plain = "".join(c for c in found[3] if c.isdigit() or c == decimal).replace(decimal, ".")
    try:
        number = Decimal(f"{plain}e{(found[4] or '0').replace(_MINUS, '-')}")
    except InvalidOperation:
        return None
    number = number / denominator if denominator > 1 else number
    # Negation and division would round numbers of more than 28 digits.
    return number.copy_negate() if _is_negative(text, found) else number


def _choose(text: str, matches: list[re.Match[str]], end: int) -> tuple[re.Match[str], int]:
    """Return the match with the answer's number, and its denominator (1 if not a fraction).

    Three numbers separated by slashes are a date, not a fraction.
    """
    first, last = matches[0], matches[-1]
    below = _DENOMINATOR.match(text, first.end(), end)
    if below and text[: first.start()][-1:] != "/" and below.end() >= last.end():
        return first, int(below[1])
    return last, 1


def _is_negative(text: str, found: re.Match[str]) -> bool:
    if found[1] not in ("-", _MINUS):
        return False
    before = text[: found.start()]
    if not found[2]:
        return not before.endswith(_DASHES_AND_ENDS)
    return before.rstrip(" \t").endswith(_OPERATORS)

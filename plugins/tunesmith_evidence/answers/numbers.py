"""Find the number that an answer ends with."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from typing import Literal

from tunesmith_evidence.answers.normalize import strip_reasoning

_MARKED = re.compile(r"####\s*((?:(?!####).)*)")
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
DecimalSeparator = Literal[".", ","]


def _number_pattern(decimal: DecimalSeparator) -> re.Pattern[str]:
    group = "," if decimal == "." else r"\."
    point = re.escape(decimal)
    digits = rf"(?:\d{{1,3}}(?:(?:{group}|['’_\u00a0\u202f ])\d{{3}})+(?!\d)|\d+)"
    return re.compile(
        rf"(?<![\w{point}])([-+\u2212]?)\s?[$€£¥]?\s?({digits}(?:{point}\d+)?|{point}\d+)"
        rf"(?:[eE]([-+]?\d{{1,3}})(?![\w]))?"
    )


_PATTERNS: dict[DecimalSeparator, re.Pattern[str]] = {
    ".": _number_pattern("."),
    ",": _number_pattern(","),
}


def find_number(text: str, decimal: DecimalSeparator = ".") -> Decimal | None:
    """Return the number after the last ``####``, in the last ``\\boxed{}``, or the last number.

    Separators of thousands, a currency sign before it and any unit behind it are ignored, and
    ``1.5e3`` is 1500. None if there is none: after a mark, no number before it counts.
    """
    text = strip_reasoning(text)
    marked = _MARKED.findall(text) or _BOXED.findall(text)
    matches = list(_PATTERNS[decimal].finditer(marked[-1] if marked else text))
    if not matches:
        return None
    sign, digits, exponent = matches[0 if marked else -1].groups()
    plain = "".join(c for c in digits if c.isdigit() or c == decimal).replace(decimal, ".")
    try:
        number = Decimal(f"{plain}e{exponent or 0}")
    except InvalidOperation:
        return None
    return -number if sign in ("-", "\u2212") else number

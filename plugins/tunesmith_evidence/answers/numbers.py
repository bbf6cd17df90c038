"""Find the numbers in a text as people write them: ``1,000``, ``2,5``, ``.5``."""

from __future__ import annotations

import re
from decimal import Decimal

__all__ = ["NUMBER", "read_number"]

_SPACE = " \u00a0\u202f"
_GROUPED = rf"[1-9]\d{{0,2}}(?:[,{_SPACE}]\d{{3}})+(?!\d)(?:\.\d+)?"
NUMBER = rf"(?:{_GROUPED}|\d+(?:[.,]\d+)?|[.,]\d+)"
"""Pattern of a number, without a sign."""


def read_number(text: str) -> Decimal:
    """Return the value of a text that matches :data:`NUMBER`.

    A comma or space before exactly three digits separates thousands, unless the number begins with
    a zero. Any other comma is a decimal point.
    """
    if re.fullmatch(_GROUPED, text):
        return Decimal(re.sub(rf"[,{_SPACE}]", "", text))
    return Decimal(text.replace(",", "."))

"""Parse dates and times of day in texts."""

from __future__ import annotations

import datetime
import re
from functools import lru_cache

MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september",
    "october", "november", "december",
)  # fmt: skip
_NAME = "|".join(f"{m[:3]}(?:{m[3:]})?" if len(m) > 3 else m for m in MONTHS).replace(
    "sep(?:tember)?", "sept?(?:ember)?"
)
_DAY, _YEAR = r"(?P<d>\d{1,2})(?:st|nd|rd|th)?", r"(?P<y>\d{4}|(?<=['’])\d{2})"
PATTERNS = (
    r"(?P<y>\d{4})[-/.](?P<m>\d{1,2})[-/.](?P<d>\d{1,2})",
    r"(?P<a>\d{1,2})[-/.](?P<b>\d{1,2})[-/.](?P<y>\d{4}|\d{2})",
    rf"{_DAY}\.?\s+(?:of\s+)?(?P<name>{_NAME})\b\.?(?:,?\s+{_YEAR})?",
    rf"\b(?P<name>{_NAME})\.?\s+{_DAY}(?:,?\s+{_YEAR})?",
    r"(?P<a>\d{1,2})[/.](?P<b>\d{1,2})\b\.?",
)
DATE = re.compile(
    "|".join(rf"(?<![\d/.-]){re.sub(r'[?]P<[a-z]+>', '?:', p)}(?!\d)" for p in PATTERNS), re.I
)
"""Matches any date in a text."""
TIME = re.compile(r"(?<![\w:.])\d{1,2}(?:[:.]\d{2})?\s*(?:[ap]\.?m\b\.?)?(?![\d:])", re.I)
"""Matches any time of day in a text, including bare numbers of up to two digits."""
FORMATS = (
    "%Y-%m-%d",
    "%d.%m.%Y",
    "%d/%m/%Y",
    "%m/%d/%Y",
    "%Y%m%d",
    "%Y/%m/%d",
    "%d %B %Y",
    "%m-%d",
)
"""Formats of dates in answers."""
_COMPILED = tuple(re.compile(pattern, re.I) for pattern in PATTERNS)
_TIME_PARTS = re.compile(r"(\d{1,2})(?:[:.](\d{2}))?\s*(?:([ap])\.?m\b\.?)?", re.I)


@lru_cache(4_096)
def read_date(text: str, *, day_first: bool, year: int) -> datetime.date | None:
    """Parse a text as a calendar date, in digits or with the name of a month.

    Args:
        text: the text to parse; two-digit years are in the 2000s.
        day_first: read ``3/4`` as April 3.
        year: the year to use for dates without one.

    Returns:
        The date, or None if the text is not a valid date.
    """
    for pattern in _COMPILED:
        match = pattern.fullmatch(text.strip())
        if match is None:
            continue
        parts = match.groupdict()
        day, month = parts.get("d"), parts.get("m")
        if parts.get("name"):
            month = str(1 + [m[:3] for m in MONTHS].index(parts["name"][:3].lower()))
        if parts.get("a"):
            day, month = (parts["a"], parts["b"]) if day_first else (parts["b"], parts["a"])
        number = int(parts.get("y") or year)
        try:
            return datetime.date(number + 2000 * (number < 100), int(month or 0), int(day or 0))
        except ValueError:
            return None
    return None


def read_time(text: str) -> str | None:
    """Parse a text as a time of day, such as ``9``, ``9.30``, ``21:30`` or ``9:30 p.m.``.

    Returns:
        The time as ``HH:MM`` (24 hours), or None if the text is not a time.
    """
    match = _TIME_PARTS.fullmatch(text.strip())
    if match is None:
        return None
    hour, minute, half = int(match[1]), int(match[2] or 0), (match[3] or "").lower()
    if half:
        hour = hour % 12 + 12 * (half == "p")
    return f"{hour:02d}:{minute:02d}" if hour < 24 and minute < 60 else None

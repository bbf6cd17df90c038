"""Format numbers, sizes and times the same way in the terminal, Markdown and HTML.

Measured numbers have three decimals, so that columns are easy to compare: ``0.970``, never ``0.97``
next to ``0.9867``. A number that would round to zero becomes ``<0.001``. Sizes are in GiB.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise

from tunesmith.text import format_count, format_duration

__all__ = [
    "format_confidence",
    "format_date",
    "format_deviation",
    "format_difference",
    "format_duration_range",
    "format_estimate",
    "format_interval",
    "format_number",
    "format_p_value",
    "format_rate",
    "format_rows",
    "format_setting",
    "format_share",
    "format_share_range",
    "format_ticks",
]

MIN_SHOWN_VALUE = 0.0005
"""Numbers below this value round to 0.000."""
MAX_SHOWN_FRACTION = 0.999
"""Largest number that is shown for a value below 1."""
MIN_SHOWN_SECONDS = 0.005
"""Durations below this many seconds round to 0.00 s."""
MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]


def format_number(value: float) -> str:
    """Format a measured number: "0.970", "-1.250", "312.5", "1,234"; "<0.001" if it is tiny.

    A number below 1 is shown as at most "0.999" and never as "1.000", because a share of 1 would
    mean that no row is wrong.
    """
    size = abs(value)
    if not math.isfinite(value):
        return f"{value:g}"
    if size >= 1e9:
        return format_rate(value)
    if 0 < size < MIN_SHOWN_VALUE:
        return "<0.001" if value > 0 else ">-0.001"
    if size < 1:
        value = math.copysign(min(size, MAX_SHOWN_FRACTION), value)
    return f"{value:,.{3 if size < 100 else 1 if size < 1000 else 0}f}"


def format_duration_range(low: float, high: float) -> str:
    """Format a range of seconds: "4 min 00 s to 9 min 00 s", "up to 0.40 s", "under 0.01 s"."""
    if high < MIN_SHOWN_SECONDS:
        return "under 0.01 s"
    texts = [format_duration(seconds) for seconds in (low, high)]
    if texts[0] == texts[1]:
        return texts[0]
    return f"up to {texts[1]}" if low < MIN_SHOWN_SECONDS else " to ".join(texts)


def format_difference(value: float) -> str:
    """Format a difference with its sign: "+0.890", "-0.083", or "0.000" for zero."""
    text = format_number(value)
    return f"+{text}" if value >= MIN_SHOWN_VALUE else text


def format_confidence(level: float) -> str:
    """Format a confidence level as "95 %", "98.8 %" or "99.983 %", but never as "100 %"."""
    missing = 100 * (1 - level)
    decimals = max(1, 1 - math.floor(math.log10(missing)))
    return f"{f'{100 - missing:.{decimals}f}'.rstrip('0').rstrip('.')} %"


def format_interval(low: float, high: float, *, signed: bool = False, label: str = "") -> str:
    """Format an interval as "[0.814, 0.937]", or as "[-0.168, +0.008]" if ``signed``.

    An interval with an infinite end is shown as "no interval". It comes from a single group of
    rows, whose spread is unknown. ``label`` precedes the interval.
    """
    if not (math.isfinite(low) and math.isfinite(high)):
        return "no interval"
    ends = map(format_difference if signed else format_number, (low, high))
    return f"{label} [{', '.join(ends)}]".lstrip()


def format_rows(n: int, units: int, noun: str = "") -> str:
    """Format a number of rows with the number of their groups, if rows depend on each other.

    For example, "105 of 21 groups", or "105 rows of 21 groups" if there is a noun.
    """
    rows = format_count(n, noun) if noun else f"{n:,}"
    return f"{rows} of {format_count(units, 'group')}" if 0 < units < n else rows


def format_estimate(value: float, low: float, high: float, *, signed: bool = False) -> str:
    """Format a value with its interval: "0.890 [0.814, 0.937]". Differences are ``signed``."""
    text = format_difference(value) if signed else format_number(value)
    return f"{text} {format_interval(low, high, signed=signed)}"


def format_deviation(value: float) -> str:
    """Format a numerical error, ideally 0, with two digits: "0", "<1e-9", "3.2e-6", "0.012"."""
    if 0 < abs(value) < 1e-9:
        return "<1e-9"
    return format_rate(float(f"{value:.1e}"))


def format_p_value(p_value: float) -> str:
    """Format a p-value with its symbol: "p = 0.032", or "p < 0.001" if it is tiny."""
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"


def format_setting(value: object) -> str:
    """Format a value from a run file: numbers with all their digits, other values unchanged."""
    if not isinstance(value, float):
        return str(value)
    text = format_rate(value)
    return text if float(text.replace(",", "")) == value else str(value)


def format_rate(value: float) -> str:
    """Format a setting such as a learning rate the way people write it: "2e-4", "0.01", "5e-5"."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if 1e-3 <= abs(value) < 1e6:
        return f"{value:,.3g}" if abs(value) < 999.5 else f"{value:,.0f}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def format_share(share: float) -> str:
    """Format a share as a percentage: "0.36 %", "12 %", "100 %"; "<0.01 %" if it is tiny.

    A share below 1 is never shown as "100 %".
    """
    percent = 100 * share
    if 0 < percent < 0.005:
        return "<0.01 %"
    if 99.5 <= percent < 100:
        return f"{math.floor(10 * percent) / 10:.1f} %"
    return f"{percent:.{2 if 0 < percent < 1 else 1 if 0 < percent < 10 else 0}f} %"


def format_share_range(low: float, high: float) -> str:
    """Format a range of shares: "0.36 % to 1.2 %", "up to 1.2 %", or "1.2 %" if both are equal."""
    texts = [format_share(share) for share in (low, high)]
    if texts[0] == texts[1]:
        return texts[0]
    return f"up to {texts[1]}" if low <= 0 else " to ".join(texts)


def format_ticks(ticks: Sequence[float]) -> list[str]:
    """Format the numbers on an axis with as many decimals as it takes to distinguish them."""
    if len(ticks) < 2:
        return [format_rate(tick) for tick in ticks]
    step = min(abs(b - a) for a, b in pairwise(ticks)) or 1.0
    largest = max(map(abs, ticks))
    if largest < 1e6 and step >= (1e-6 if largest >= 0.1 else 1e-3):
        decimals = max(0, -math.floor(math.log10(step) + 1e-9))
        return [f"{tick:,.{decimals}f}" for tick in ticks]
    return [format_rate(tick) for tick in ticks]


def format_date(iso: str) -> str:
    """Format an ISO 8601 time as "28 Nov 2026, 03:45 UTC", and return other text unchanged."""
    try:
        time = datetime.fromisoformat(iso)
    except ValueError:
        return iso
    time = time.astimezone(UTC) if time.tzinfo else time
    return f"{time.day} {MONTHS[time.month - 1]} {time.year}, {time:%H:%M} UTC"

"""Report how large a difference the test rows can detect, before a run starts.

All rows of a group count as one row, as in intervals and significance tests.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from tunesmith.contracts import Finding
from tunesmith.records import Record
from tunesmith.text import format_count
from tunesmith_evidence.number_text import format_number
from tunesmith_evidence.statistics import minimum_detectable_difference

ENOUGH = 100
"""Number of independent rows that can show most differences that matter."""


def review(test: Sequence[Record]) -> Iterator[Finding]:
    """Yield a warning if no difference is detectable, or a note if only large differences are."""
    if not test:
        return
    groups = {record.group for record in test if record.group is not None}
    units = len(groups) + sum(record.group is None for record in test)
    if units >= ENOUGH:
        return
    what = format_count(len(test), "test row")
    noun = "row"
    if units < len(test):
        what, noun = f"{what} of {format_count(units, 'group')}", "group"
    smallest = minimum_detectable_difference(units)
    if math.isinf(smallest):
        least = next(
            n for n in range(units, ENOUGH) if math.isfinite(minimum_detectable_difference(n))
        )
        yield Finding(
            level="warning",
            where="data.test",
            message=f"nothing can be concluded from {what}: even if one model is always right "
            "and the other never, the difference could be chance",
            hint=f"use test rows of at least {least} groups, preferably {ENOUGH}"
            if noun == "group"
            else f"use at least {least} rows, preferably {ENOUGH}: add test rows, or raise "
            "data.test_size",
            count=len(test),
        )
        return
    yield Finding(
        level="info",
        where="data.test",
        message=f"{what} can detect differences of {format_number(smallest)} or more "
        f"(80 % power); {ENOUGH} {noun}s detect "
        f"{format_number(minimum_detectable_difference(ENOUGH))}",
        count=len(test),
    )

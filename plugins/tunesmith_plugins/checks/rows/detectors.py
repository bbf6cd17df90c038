"""A check that is a table of detectors, each of which looks at one row at a time."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from tunesmith.contracts import Finding
from tunesmith.records import Record
from tunesmith_plugins.checks.rows.check import Tally, build_finding, share
from tunesmith_plugins.checks.rows.row import Row

BY_DESIGN = 0.2
"""Share of the rows from which on something is no accident, and perhaps part of the task."""
CONTEXT = 20
"""Number of characters that are shown before a match."""

Find = Callable[[Row], str | None]
"""Return the text to show if a row has the fault, else None."""


@dataclass(frozen=True)
class Detector:
    """A fault that a row can have on its own."""

    what: str
    """The end of the sentence about such rows, after their number: ``rows have ...``."""
    find: Find
    hint: str
    level: Literal["info", "warning"] = "warning"
    can_be_intended: bool = True
    """True if the fault is part of the task where many rows have it; then it is an info."""


class Detectors:
    """Counts the rows that each detector of a table finds."""

    def __init__(self, check: str, table: Sequence[Detector]) -> None:
        self._check = check
        self._tallies = [(detector, detector.find, Tally()) for detector in table]
        self._rows = 0

    def add(self, row: Row) -> None:
        """Ask each detector about a row."""
        self._rows += 1
        for _, find, tally in self._tallies:
            text = find(row)
            if text is not None:
                tally.add(row, text)

    def findings(self, train: Sequence[Record]) -> Iterator[Finding]:
        """Return one finding for each detector that found rows."""
        for detector, _, tally in self._tallies:
            if not tally.count:
                continue
            is_intended = detector.can_be_intended and tally.count >= BY_DESIGN * self._rows
            yield build_finding(
                self._check,
                "info" if is_intended else detector.level,
                f"{share(tally.count, self._rows)} {detector.what}",
                tally.count,
                tally.examples,
                "leave them if that is the task" if is_intended else detector.hint,
            )


def search(
    pattern: str, *marks: str, in_answer: bool = False, flags: re.RegexFlag = re.NOFLAG
) -> Find:
    """Return a function that searches a row for a pattern.

    The pattern is tried only if the text contains one of the ``marks``, which is much faster;
    without marks it is always tried.
    """
    compiled = re.compile(pattern, flags)

    def find(row: Row) -> str | None:
        text = row.answer if in_answer else row.text
        if marks and not any(mark in text for mark in marks):
            return None
        match = compiled.search(text)
        return around(text, match) if match else None

    return find


def around(text: str, match: re.Match[str]) -> str:
    """Return the text from a few characters before a match on."""
    start = max(0, match.start() - CONTEXT)
    return ("…" if start else "") + text[start : match.end() + 2 * CONTEXT]

"""Run detectors. Each detector looks for one fault in one row at a time."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tunesmith.contracts import Finding
from tunesmith.records import Record
from tunesmith.text import mask_personal_data
from tunesmith_plugins.checks.rows.block import Block, MarkFinder
from tunesmith_plugins.checks.rows.check import Tally, build_finding, show_share
from tunesmith_plugins.checks.rows.row import Row

BY_DESIGN = 0.2
"""If at least this share of the rows has the fault, it may be part of the task."""
CONTEXT = 20
"""Number of characters to show before a match."""
MASKED_CHARACTERS = 200
"""Number of characters around a match that are searched for personal data to mask."""

FindFault = Callable[[Row], str | None]
"""Returns the text to show if a row has the fault, otherwise None."""
SelectRows = Callable[[Block], Sequence[Row]]
"""Returns the rows of a block that may have the fault."""


def _all_rows(block: Block) -> Sequence[Row]:
    return block.rows


@dataclass(frozen=True)
class Detector:
    """A fault that is visible in a single row, with the function that detects it.

    The function only examines rows that contain one of the ``marks`` or, if there are no marks, the
    rows that ``select`` returns.
    """

    what: str
    """The message: a noun that is counted, then what is wrong (``answers repeat their prompt``)."""
    find: FindFault
    hint: str
    level: Literal["info", "warning"] = "warning"
    can_be_intended: bool = True
    """True if the finding is only a note when many rows have the fault: it may be the task."""
    marks: Sequence[str] = ()
    select: SelectRows = _all_rows


class Detectors:
    """Counts the rows that each detector flags. ``tables`` maps check names to detectors."""

    def __init__(self, tables: Mapping[str, Sequence[Detector]]) -> None:
        self._tallies = [(name, one, Tally()) for name, table in tables.items() for one in table]
        self._marks = MarkFinder([detector.marks for _, detector, _ in self._tallies])
        self._rows = 0

    def add(self, block: Block) -> None:
        """Run each detector on the rows that may have its fault."""
        self._rows += len(block.rows)
        with_marks = self._marks.find(block)
        for (_, detector, tally), marked in zip(self._tallies, with_marks, strict=True):
            for row in marked if detector.marks else detector.select(block):
                text = detector.find(row)
                if text is not None:
                    tally.add(row, text)

    def findings(self, train: Sequence[Record]) -> Iterator[Finding]:
        """Return one finding for each detector that flagged rows."""
        for name, detector, tally in self._tallies:
            if not tally.count:
                continue
            noun, _, fault = detector.what.partition(" ")
            is_intended = detector.can_be_intended and tally.count >= BY_DESIGN * self._rows
            yield build_finding(
                name,
                "info" if is_intended else detector.level,
                f"{show_share(tally.count, self._rows, noun)} {fault}",
                tally.count,
                tally.examples,
                "fine if this is part of the task" if is_intended else detector.hint,
            )


def make_search(
    pattern: str, *, in_answer: bool = False, flags: re.RegexFlag = re.NOFLAG
) -> FindFault:
    """Return a function that searches the text or the answer of a row for a pattern."""
    compiled = re.compile(pattern, flags)

    def find(row: Row) -> str | None:
        text = row.answer if in_answer else row.text
        match = compiled.search(text)
        return quote_around(text, match) if match else None

    return find


def quote_around(text: str, match: re.Match[str]) -> str:
    """Return a match with the text around it, where personal data is masked."""
    start, end = match.span()
    # Mask before cutting: half an address or number would not be recognized.
    before = mask_personal_data(text[max(0, start - MASKED_CHARACTERS) : start])[-CONTEXT:]
    after = mask_personal_data(text[end : end + MASKED_CHARACTERS])[: 2 * CONTEXT]
    return ("…" if start > CONTEXT else "") + before + match.group() + after

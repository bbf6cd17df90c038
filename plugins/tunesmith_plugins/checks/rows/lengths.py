"""Find answers and prompts that are far longer than the others, and answers that say nothing."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence

import numpy as np

from tunesmith.contracts import Finding
from tunesmith.records import Record
from tunesmith_plugins.checks.rows.block import Block
from tunesmith_plugins.checks.rows.check import MOST_EXAMPLES, Tally, build_finding, share, show_row
from tunesmith_plugins.checks.rows.row import Row

FEWEST_ROWS = 20
FENCE = 3.0
"""Interquartile ranges of the logarithm above the third quartile, beyond which a length is far
out (Tukey, Exploratory Data Analysis, 1977)."""
SMALLEST_FACTOR = 8.0
"""A length is no outlier below this many times the third quartile."""
SHORTEST_OUTLIER = 400
"""Number of characters below which no text is too long."""
SPREADSHEET_ERRORS = ("#n/a", "#ref!", "#value!", "#name?")
EMPTY_ANSWERS = frozenset(
    ("n/a", "nan", "null", "none", "nil", "undefined", "todo", "tbd", *SPREADSHEET_ERRORS)
)


class Lengths:
    """Keeps the lengths of training rows, and counts answers that say nothing."""

    def __init__(self) -> None:
        self._numbers = array("q")
        self._lengths = {"prompt": array("q"), "answer": array("q")}
        self._empty = Tally()
        self._answers = 0

    def add(self, block: Block) -> None:
        for row in block.rows:
            self._add(row)

    def _add(self, row: Row) -> None:
        """Keep the lengths of a row."""
        if row.answer:
            self._answers += 1
            if is_empty(row.answer):
                self._empty.add(row, row.answer)
        if row.part == "train":
            self._numbers.append(row.number)
            self._lengths["prompt"].append(len(row.prompt or row.text))
            self._lengths["answer"].append(len(row.answer))

    def findings(self, train: Sequence[Record]) -> Iterator[Finding]:
        """Return findings about empty answers and outliers."""
        if self._empty.count:
            yield build_finding(
                "lengths",
                "warning",
                f"{share(self._empty.count, self._answers)} answers say nothing",
                self._empty.count,
                self._empty.examples,
                "leave them out",
            )
        if len(self._numbers) < FEWEST_ROWS:
            return
        for name, kept in self._lengths.items():
            lengths = np.frombuffer(kept, dtype=np.int64)
            limit = outlier_limit(lengths)
            found = np.flatnonzero(lengths > limit)
            if len(found):
                examples = [
                    f"{show_row(train, self._numbers[i])} has {lengths[i]:,} characters"
                    for i in found[:MOST_EXAMPLES].tolist()
                ]
                text = (
                    f"{share(len(found), len(lengths))} training rows have a far longer {name} "
                    f"than others, more than {limit:,.0f} characters"
                )
                hint = "look if they are several rows in one"
                yield build_finding("lengths", "warning", text, len(found), examples, hint)


def outlier_limit(lengths: np.typing.NDArray[np.int64]) -> float:
    """Return the length above which a text is far longer than the others."""
    first, third = np.quantile(np.log1p(lengths), (0.25, 0.75))
    factor = max(np.log(SMALLEST_FACTOR), FENCE * (third - first))
    return max(float(SHORTEST_OUTLIER), float(np.expm1(third + factor)))


def is_empty(answer: str) -> bool:
    """Return True if an answer stands for a missing one: ``N/A``, ``null``, ``...``."""
    text = answer.strip().casefold()
    return text in EMPTY_ANSWERS or not text.strip("-–—_.…?*/\\|~ ")

"""Find unusually long prompts and answers, and placeholders for missing answers."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence

import numpy as np

from tunesmith.contracts import Finding
from tunesmith.records import Record
from tunesmith_plugins.checks.rows.block import Block
from tunesmith_plugins.checks.rows.check import (
    MAX_EXAMPLES,
    Tally,
    build_finding,
    show_row,
    show_share,
)
from tunesmith_plugins.checks.rows.row import Row

MIN_ROWS = 20
FENCE = 3.0
"""A length is an outlier if its logarithm exceeds the third quartile by more than this many
interquartile ranges: "far out" in Tukey, Exploratory Data Analysis, 1977."""
MIN_FACTOR = 8.0
"""A length below this multiple of the third quartile is never an outlier."""
MIN_OUTLIER_CHARACTERS = 400
"""A text with fewer characters is never an outlier."""
SPREADSHEET_ERRORS = ("#n/a", "#ref!", "#value!", "#name?")
EMPTY_ANSWERS = frozenset(
    ("n/a", "nan", "null", "none", "nil", "undefined", "todo", "tbd", *SPREADSHEET_ERRORS)
)


class Lengths:
    """Stores the lengths of training rows, and counts placeholders for missing answers."""

    def __init__(self) -> None:
        self._numbers = array("q")
        self._lengths = {"prompt": array("q"), "answer": array("q")}
        self._empty = Tally()
        self._answers = 0

    def add(self, block: Block) -> None:
        for row in block.rows:
            self._add(row)

    def _add(self, row: Row) -> None:
        """Store the lengths of a training row, and count an answer that is a placeholder."""
        if row.answer:
            self._answers += 1
            if is_empty(row.answer):
                self._empty.add(row, row.answer)
        if row.part == "train":
            self._numbers.append(row.number)
            self._lengths["prompt"].append(len(row.prompt or row.text))
            self._lengths["answer"].append(len(row.answer))

    def findings(self, train: Sequence[Record]) -> Iterator[Finding]:
        """Yield findings about placeholder answers, such as ``N/A``, and unusually long texts."""
        if self._empty.count:
            yield build_finding(
                "lengths",
                "warning",
                f"{show_share(self._empty.count, self._answers, 'answers')} are placeholders for a "
                'missing value, such as "N/A" or "null"',
                self._empty.count,
                self._empty.examples,
                "remove these rows, or write the answers",
            )
        if len(self._numbers) < MIN_ROWS:
            return
        for name, kept in self._lengths.items():
            lengths = np.frombuffer(kept, dtype=np.int64)
            limit = outlier_limit(lengths)
            found = np.flatnonzero(lengths > limit)
            if len(found):
                examples = [
                    f"{show_row(train, self._numbers[i])} has {lengths[i]:,} characters"
                    for i in found[:MAX_EXAMPLES].tolist()
                ]
                text = (
                    f"{show_share(len(found), len(lengths), 'training rows')} have an unusually "
                    f"long {name}, more than {limit:,.0f} characters"
                )
                hint = "check if several rows were merged into one"
                yield build_finding("lengths", "warning", text, len(found), examples, hint)


def outlier_limit(lengths: np.typing.NDArray[np.int64]) -> float:
    """Return the length in characters above which a text is an outlier."""
    first, third = np.quantile(np.log1p(lengths), (0.25, 0.75))
    factor = max(np.log(MIN_FACTOR), FENCE * (third - first))
    return max(float(MIN_OUTLIER_CHARACTERS), float(np.expm1(third + factor)))


def is_empty(answer: str) -> bool:
    """Return True if an answer is a placeholder for a missing value: ``N/A``, ``null``, ``...``."""
    text = answer.strip().casefold()
    return text in EMPTY_ANSWERS or not text.strip("-–—_.…?*/\\|~ ")

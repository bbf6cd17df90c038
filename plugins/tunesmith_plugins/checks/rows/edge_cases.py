"""Count the prompts of kinds that data often lacks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tunesmith.contracts import Finding
from tunesmith.records import Record
from tunesmith_plugins.checks.rows.block import Block
from tunesmith_plugins.checks.rows.check import build_finding
from tunesmith_plugins.checks.rows.row import Row

FEWEST_ROWS = 100
SHORT = 2
PREFIX = 32
"""Characters that are looked at first: most texts have a letter in them."""
NEGATIONS = (" not ", "n't ", "n’t ", " never ", " no ", " without ", " cannot ", " nothing ")


class EdgeCases:
    """Counts training prompts that are short, negated, in capitals, or without a letter."""

    def __init__(self) -> None:
        self._rows = 0
        self._counts = {
            f"have at most {SHORT} words": 0,
            "have an English negation": 0,
            "are in capitals": 0,
            "have no letter": 0,
        }

    def add(self, block: Block) -> None:
        for row in block.rows:
            self._add(row)

    def _add(self, row: Row) -> None:
        """Count the prompt of a training row."""
        if row.part != "train" or not row.question:
            return
        self._rows += 1
        text = row.question
        start = text[:PREFIX]
        asked = f" {row.question_words} "
        values = (
            len(text) < 80 and len(text.split()) <= SHORT,
            any(word in asked for word in NEGATIONS),
            text.isupper(),
            start.lower() == start.upper() and text.lower() == text.upper(),
        )
        if any(values):
            for name, value in zip(self._counts, values, strict=True):
                self._counts[name] += value

    def findings(self, train: Sequence[Record]) -> Iterator[Finding]:
        """Return the counts."""
        if self._rows >= FEWEST_ROWS and any(self._counts.values()):
            found = ((name, count) for name, count in self._counts.items() if count)
            counts = ", ".join(f"{count:,} {name}" for name, count in found)
            text = f"of {self._rows:,} training prompts, {counts}"
            yield build_finding("edge cases", "info", text, self._rows)

"""Count the prompts of kinds that data often lacks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain

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
NEIGHBORS = 3
"""Words before or behind a negation by which it is recognized in other prompts."""
INSTRUCTION_SHARE = 0.1
"""Share of prompts with the same words there from which on they are an instruction."""


class Negations:
    """Counts prompts with a negation, apart from those that only have that of an instruction.

    An instruction such as ``Answer with the label and no other words`` is in many prompts. It says
    nothing about how many users write a negation.
    """

    def __init__(self) -> None:
        self._prompts: list[frozenset[tuple[int, int]]] = []
        """Of each prompt the hashes of the words before its negations, and of those behind."""

    def add(self, asked: str) -> bool:
        """Look at a prompt, with a space around it; return True if it has a negation."""
        if not any(negation in asked for negation in NEGATIONS):
            return False
        edge = [""] * NEIGHBORS
        words = [*edge, *asked.split(), *edge]
        places = (n for n, word in enumerate(words) if any(s in f" {word} " for s in NEGATIONS))
        self._prompts.append(
            frozenset(
                (hash((*words[n - NEIGHBORS : n + 1],)), hash((*words[n : n + NEIGHBORS + 1], "")))
                for n in places
            )
        )
        return True

    def count(self, prompts: int) -> int:
        """Return how many of all prompts have a negation of their own."""
        sides = ({*chain(*found)} for found in self._prompts)
        counts = Counter(chain.from_iterable(sides))
        most = INSTRUCTION_SHARE * prompts
        return sum(
            any(counts[before] < most and counts[behind] < most for before, behind in found)
            for found in self._prompts
        )


class EdgeCases:
    """Counts training prompts that are short, negated, in capitals, or without a letter."""

    def __init__(self) -> None:
        self._rows = 0
        self._negations = Negations()
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
        values = (
            len(text) < 80 and len(text.split()) <= SHORT,
            self._negations.add(f" {row.question_words} "),
            text.isupper(),
            start.lower() == start.upper() and text.lower() == text.upper(),
        )
        if any(values):
            for name, value in zip(self._counts, values, strict=True):
                self._counts[name] += value

    def findings(self, train: Sequence[Record]) -> Iterator[Finding]:
        """Return the counts."""
        counts = {
            **self._counts,
            "have an English negation": self._negations.count(self._rows),
        }
        if self._rows >= FEWEST_ROWS and any(counts.values()):
            found = (f"{count:,} {name}" for name, count in counts.items() if count)
            text = f"of {self._rows:,} training prompts, {', '.join(found)}"
            yield build_finding("edge cases", "info", text, self._rows)

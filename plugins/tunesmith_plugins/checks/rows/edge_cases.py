"""Count unusual training prompts: very short, negated, in capitals, or without letters."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain

from tunesmith.contracts import Finding
from tunesmith.records import Record
from tunesmith_data.text import UNSPACED
from tunesmith_plugins.checks.rows.block import Block
from tunesmith_plugins.checks.rows.check import build_finding
from tunesmith_plugins.checks.rows.row import Row

MIN_ROWS = 100
MAX_SHORT_WORDS = 2
MAX_SHORT_CHARACTERS = 4
"""Two words in a script without spaces have about this many characters."""
_UNSPACED = re.compile(f"[{UNSPACED}]")
PREFIX_CHARACTERS = 32
"""Number of characters that are checked first, because most texts start with a letter."""
NEGATIONS = (" not ", "n't ", "n’t ", " never ", " no ", " without ", " cannot ", " nothing ")
NEGATED = 'with "not" or another English negation'
NEIGHBORS = 3
"""Number of words on each side of a negation that identify it in other prompts."""
INSTRUCTION_SHARE = 0.1
"""A negation in the same context in at least this share of prompts belongs to an instruction."""


class Negations:
    """Counts prompts with a negation, ignoring negations in instructions that many prompts share.

    An instruction such as ``Answer with the label and no other words`` does not show how often
    users write negations.
    """

    def __init__(self) -> None:
        self._prompts: list[frozenset[tuple[int, int]]] = []
        """For each negated prompt, the hashes of the words before and after each negation."""

    def add(self, asked: str) -> bool:
        """Store a prompt (with a space at both ends) and return True if it contains a negation."""
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
        """Return how many of all ``prompts`` contain a negation outside of shared instructions."""
        sides = ({*chain(*found)} for found in self._prompts)
        counts = Counter(chain.from_iterable(sides))
        most = INSTRUCTION_SHARE * prompts
        return sum(
            any(counts[before] < most and counts[behind] < most for before, behind in found)
            for found in self._prompts
        )


class EdgeCases:
    """Counts training prompts that are very short, negated, in capitals, or without letters."""

    def __init__(self) -> None:
        self._rows = 0
        self._negations = Negations()
        self._counts = {
            f"with at most {MAX_SHORT_WORDS} words": 0,
            NEGATED: 0,
            "in capitals": 0,
            "without letters": 0,
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
        start = text[:PREFIX_CHARACTERS]
        values = (
            len(text) < 80
            and len(text.split()) <= MAX_SHORT_WORDS
            and len(_UNSPACED.findall(text)) <= MAX_SHORT_CHARACTERS,
            self._negations.add(f" {row.question_words} "),
            text.isupper(),
            not (any(map(str.isalpha, start)) or any(map(str.isalpha, text))),
        )
        if any(values):
            for name, value in zip(self._counts, values, strict=True):
                self._counts[name] += value

    def findings(self, train: Sequence[Record]) -> Iterator[Finding]:
        """Return a finding with the number of unusual prompts of each kind."""
        counts = {
            **self._counts,
            NEGATED: self._negations.count(self._rows),
        }
        if self._rows >= MIN_ROWS and any(counts.values()):
            found = (f"{count:,} {name}" for name, count in counts.items() if count)
            text = f"unusual prompts in {self._rows:,} training rows: {', '.join(found)}"
            hint = "check that the answers respect the negations" if counts[NEGATED] else ""
            yield build_finding("edge cases", "info", text, self._rows, hint=hint)

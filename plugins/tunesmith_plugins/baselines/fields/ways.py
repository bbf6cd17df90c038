"""Ways to predict a field: a constant, classifiers, and copying; and which is the best one.

A way is copying where a classifier says so, or where a candidate is likely. The best one is right
most often out of fold: on training rows that it has not learned from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tunesmith_evidence.classify.classifiers import Linear, Rows, predict
from tunesmith_plugins.baselines.fields.copying import CandidateRows, Copier

RowsByKind: TypeAlias = dict[str, Rows]
COPIED = "\0copied"
"""In place of a value that is among the candidates of its text."""
MAX_LABELS = 100
"""Of more values than this, the most frequent are classes and the others are not."""
MIN_CLASSIFIED = 0.2
"""Share of rows with values that recur; below it, values are no classes."""
FEW_VALUES = 20
"""As many values as this are classes, also those that occur once."""
STRENGTHS = {"terms": 30.0, "words": 1.0}
"""The kinds of rows that classifiers learn from, each with its inverse regularization: TF-IDF of
words and character n-grams, and the plain presence of words, which finds single words sooner."""
LIKELY = 0.5
"""Probability above which the best candidate is copied."""


@dataclass(frozen=True)
class Way:
    """A way to predict a field."""

    kind: str | None
    """The kind of rows that its classifier learns from; None: there is no classifier."""
    copies: Literal["never", "if classified", "if likely"]
    """When a candidate is the value: as the classifier decides, or if it is likely."""


WAYS = {
    "constant": Way(None, "never"),
    **{f"classify {kind}": Way(kind, "never") for kind in STRENGTHS},
    **{f"copy if {kind} say so": Way(kind, "if classified") for kind in STRENGTHS},
    **{f"copy if likely, else classify {kind}": Way(kind, "if likely") for kind in STRENGTHS},
}
"""All ways by name, the simplest first."""


def list_ways(*, can_copy: bool) -> list[str]:
    """Return the names of the ways that are possible, the simplest first."""
    return [name for name, way in WAYS.items() if can_copy or way.copies == "never"]


@dataclass(frozen=True, eq=False)
class FieldRows:
    """Texts and the value of a field for each."""

    rows: RowsByKind
    values: Sequence[str]
    marked: Sequence[str]
    """The values, with a mark in the place of those that are among the candidates."""

    def take(self, chosen: NDArray[np.int64]) -> FieldRows:
        """Return the chosen rows."""
        numbers = chosen.tolist()
        return FieldRows(
            {kind: rows[chosen] for kind, rows in self.rows.items()},
            [self.values[i] for i in numbers],
            [self.marked[i] for i in numbers],
        )


class Classified:
    """A classifier of the frequent values of a field."""

    def __init__(self, rows: Rows, values: Sequence[str], c: float) -> None:
        """Learn from rows with these values, at the first prediction."""
        counts = Counter(values)
        ranked = sorted(counts, key=lambda value: (-counts[value], value))
        self.constant = ranked[0]
        recurs = 1 if len(ranked) <= FEW_VALUES else 2
        kept = {value for value in ranked[:MAX_LABELS] if counts[value] >= recurs}
        members = [i for i, value in enumerate(values) if value in kept]
        self._learns = len(members) >= MIN_CLASSIFIED * len(values)
        self.labels = kept | {self.constant} if self._learns else {self.constant}
        """All values that can be predicted."""
        self._rows, self._members, self._c = rows, members, c
        self._answers = [values[i] for i in members]

    @cached_property
    def _linear(self) -> Linear:
        return Linear(self._rows[self._members], self._answers, self._c)

    def predict(self, rows: Rows) -> list[str]:
        """Return a value for each row."""
        if not self._learns:
            return [self.constant] * rows.shape[0]
        return predict(self._linear, rows)


class Learned:
    """All ways, learned from the same rows: each part when it is needed first."""

    def __init__(
        self, training: FieldRows, learn_copier: Callable[[], Copier], write: Callable[[str], str]
    ) -> None:
        """Learn from rows; ``write`` returns a content that is copied as a value."""
        self._training = training
        self._learn_copier = learn_copier
        self._write = write

    @cached_property
    def copier(self) -> Copier:
        """Chooses among the candidates of a text."""
        return self._learn_copier()

    @cached_property
    def everything(self) -> dict[str, Classified]:
        """The classifiers of all values."""
        return self._classify(self._training.values)

    @cached_property
    def unless_copied(self) -> dict[str, Classified]:
        """Classifiers that say also if a value can be copied."""
        return self._classify(self._training.marked)

    def _classify(self, values: Sequence[str]) -> dict[str, Classified]:
        rows = self._training.rows
        return {kind: Classified(rows[kind], values, c) for kind, c in STRENGTHS.items()}

    def predict(
        self, way: str, rows: RowsByKind, candidates: CandidateRows, chosen: Sequence[int]
    ) -> list[str]:
        """Return the values of rows, whose candidates are the chosen ones, in one way."""
        kind, copies = WAYS[way].kind, WAYS[way].copies
        if kind is None:
            return [self.everything["terms"].constant] * len(chosen)
        if copies == "never":
            return self.everything[kind].predict(rows[kind])
        copied = self.copier.copy(candidates, chosen)
        found: list[str | None]
        if copies == "if likely":
            found = [self._write(content) if p > LIKELY else None for content, p in copied]
        else:
            marked = zip(self.unless_copied[kind].predict(rows[kind]), copied, strict=True)
            found = [
                (self._write(content) if content else None) if mark == COPIED else mark
                for mark, (content, _) in marked
            ]
        others = [i for i, value in enumerate(found) if value is None]
        if others:
            classified = self.everything[kind].predict(rows[kind][others])
            for i, value in zip(others, classified, strict=True):
                found[i] = value
        return [value for value in found if value is not None]


class WayTest:
    """Rows on which ways are measured that have learned from other rows."""

    def __init__(
        self, learned: Learned, rows: FieldRows, candidates: CandidateRows, chosen: Sequence[int]
    ) -> None:
        """Measure on rows, whose candidates are the chosen ones."""
        self._learned, self._rows = learned, rows
        self._candidates, self._chosen = candidates, chosen
        labels, unless_copied = (
            classifiers["terms"].labels
            for classifiers in (learned.everything, learned.unless_copied)
        )
        is_known = [value in labels for value in rows.values]
        pairs = zip(is_known, rows.marked, strict=True)
        is_possible = [known or m == COPIED or m in unless_copied for known, m in pairs]
        self._most_classified, self._most_copied = sum(is_known), sum(is_possible)
        self._right: dict[str, int] = {}

    def is_measured(self, way: str) -> bool:
        """Return True if it is known how often a way is right."""
        return way in self._right

    def count_possible(self, way: str) -> int:
        """Return how often a way is right, or could be as far as it is known."""
        most = self._most_classified if WAYS[way].copies == "never" else self._most_copied
        return self._right.get(way, most)

    def measure(self, way: str) -> None:
        """Count how often a way is right."""
        found = self._learned.predict(way, self._rows.rows, self._candidates, self._chosen)
        self._right[way] = sum(f == v for f, v in zip(found, self._rows.values, strict=True))


def choose_way(ways: Sequence[str], tests: Sequence[WayTest]) -> tuple[str, int]:
    """Return the way that is right most often, and how often; of equal ones the first.

    Measured is always the way that could be right most often, and none longer than it can win.
    """
    if not tests:
        return ways[0], 0
    while True:
        most = {way: sum(test.count_possible(way) for test in tests) for way in ways}
        best = max(ways, key=lambda way: most[way])
        unknown = next((test for test in tests if not test.is_measured(best)), None)
        if unknown is None:
            return best, most[best]
        unknown.measure(best)

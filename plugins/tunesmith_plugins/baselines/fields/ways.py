"""Choose how to predict a field: a constant, a classifier, or copying from the text.

Either a classifier decides whether to copy, or a candidate is copied if it is probable enough. Of
all methods, the one with the best out-of-fold accuracy predicts the field.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tunesmith_evidence.classify.classifiers import LinearClassifier, Rows, predict
from tunesmith_plugins.baselines.fields.copying import CandidateRows, Copier

RowsByKind: TypeAlias = dict[str, Rows]
COPIED = "\0copied"
"""Marker for a value that is among the candidates of its text."""
MAX_LABELS = 100
"""Maximum number of classes; if there are more values, only the most frequent become classes."""
MIN_CLASSIFIED = 0.2
"""Minimum share of rows that must belong to a class for the classifier to be trained."""
FEW_VALUES = 20
"""If there are at most this many distinct values, even those that occur once are classes."""
STRENGTHS = {"terms": 30.0, "words": 1.0}
"""Feature sets of the classifiers, with their inverse regularization strengths: ``terms`` is TF-IDF
of words and character n-grams; ``words`` is the presence of words, which picks up single words from
fewer rows."""
MIN_PROBABILITY = 0.5
"""The best candidate is copied if its probability is above this."""


@dataclass(frozen=True)
class PredictionWay:
    """How a field is predicted: by a classifier, by copying from the prompt, or by both."""

    kind: str | None
    """The feature set of the classifier, or None if no classifier is used."""
    copies: Literal["never", "if classified", "if likely"]
    """When to copy a candidate: if the classifier decides so, or if the candidate is likely."""


WAYS = {
    "constant": PredictionWay(None, "never"),
    **{f"classify {kind}": PredictionWay(kind, "never") for kind in STRENGTHS},
    **{f"copy if {kind} say so": PredictionWay(kind, "if classified") for kind in STRENGTHS},
    **{
        f"copy if likely, else classify {kind}": PredictionWay(kind, "if likely")
        for kind in STRENGTHS
    },
}
"""All methods by name, the simplest first."""


def list_ways(*, can_copy: bool) -> list[str]:
    """Return the names of the methods, the simplest first; those that copy only if ``can_copy``."""
    return [name for name, way in WAYS.items() if can_copy or way.copies == "never"]


@dataclass(frozen=True, eq=False)
class FieldRows:
    """Feature vectors of texts, each with the value of a field."""

    rows: RowsByKind
    values: Sequence[str]
    marked: Sequence[str]
    """The values, with a marker instead of each one that is among the candidates."""

    def take(self, chosen: NDArray[np.int64]) -> FieldRows:
        """Return only the rows with these indices."""
        numbers = chosen.tolist()
        return FieldRows(
            {kind: rows[chosen] for kind, rows in self.rows.items()},
            [self.values[i] for i in numbers],
            [self.marked[i] for i in numbers],
        )


class ValueClassifier:
    """Predicts which of its frequent values a field has."""

    def __init__(self, rows: Rows, values: Sequence[str], c: float) -> None:
        """Collect the classes. The classifier is trained at the first prediction."""
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
    def _linear(self) -> LinearClassifier:
        return LinearClassifier(self._rows[self._members], self._answers, self._c)

    def predict(self, rows: Rows) -> list[str]:
        """Return the most probable value for each row."""
        if not self._learns:
            return [self.constant] * rows.shape[0]
        return predict(self._linear, rows)


class LearnedWays:
    """All methods, learned from the same rows. Each part is trained when it is first used."""

    def __init__(
        self, training: FieldRows, learn_copier: Callable[[], Copier], write: Callable[[str], str]
    ) -> None:
        """Store the training rows. ``write`` formats copied content as a value."""
        self._training = training
        self._learn_copier = learn_copier
        self._write = write

    @cached_property
    def copier(self) -> Copier:
        """The model that chooses among a text's candidates."""
        return self._learn_copier()

    @cached_property
    def everything(self) -> dict[str, ValueClassifier]:
        """The classifiers of all values, by feature set."""
        return self._classify(self._training.values)

    @cached_property
    def unless_copied(self) -> dict[str, ValueClassifier]:
        """The classifiers that also decide whether a value is copied, by feature set."""
        return self._classify(self._training.marked)

    def _classify(self, values: Sequence[str]) -> dict[str, ValueClassifier]:
        rows = self._training.rows
        return {kind: ValueClassifier(rows[kind], values, c) for kind, c in STRENGTHS.items()}

    def predict(
        self, way: str, rows: RowsByKind, candidates: CandidateRows, chosen: Sequence[int]
    ) -> list[str]:
        """Predict the values of rows with one method. ``chosen`` selects their candidates."""
        kind, copies = WAYS[way].kind, WAYS[way].copies
        if kind is None:
            return [self.everything["terms"].constant] * len(chosen)
        if copies == "never":
            return self.everything[kind].predict(rows[kind])
        copied = self.copier.copy(candidates, chosen)
        found: list[str | None]
        if copies == "if likely":
            found = [self._write(content) if p > MIN_PROBABILITY else None for content, p in copied]
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
    """Measures the methods on rows that they were not trained on."""

    def __init__(
        self,
        learned: LearnedWays,
        rows: FieldRows,
        candidates: CandidateRows,
        chosen: Sequence[int],
    ) -> None:
        """Store the rows to measure on. ``chosen`` selects their candidates."""
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
        """Return True if a method has been measured."""
        return way in self._right

    def count_possible(self, way: str) -> int:
        """Return how often a method is correct, or an upper bound if it has not been measured."""
        most = self._most_classified if WAYS[way].copies == "never" else self._most_copied
        return self._right.get(way, most)

    def measure(self, way: str) -> None:
        """Run a method on the rows, and store how often it is correct."""
        found = self._learned.predict(way, self._rows.rows, self._candidates, self._chosen)
        self._right[way] = sum(f == v for f, v in zip(found, self._rows.values, strict=True))


def choose_way(ways: Sequence[str], tests: Sequence[WayTest]) -> tuple[str, int]:
    """Return the method that is correct most often, and how often; ties go to the first.

    Measure the method with the highest upper bound next, until no other method can win.
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

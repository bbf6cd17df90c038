"""Predict each field of JSON answers by the way that is right most often on unseen rows.

The ways are a constant, classifiers, and copying: where a classifier says so, or where a candidate
is likely. Which one a field gets is decided by its accuracy out of fold: on training rows that the
way in question has not learned from.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from tunesmith_evidence.classify.classifiers import Linear, Rows, predict
from tunesmith_evidence.classify.folds import FOLDS, assign_folds
from tunesmith_evidence.classify.vectors import Vectorizer, WordVectorizer
from tunesmith_evidence.fields.copying import CandidateRows, Copier, Patterns, content_of
from tunesmith_evidence.tasks.json_answers import Path, find_order, find_style, parse_object

RowsByKind: TypeAlias = dict[str, Rows]
ABSENT = ""
"""In place of the value of a field that an object does not have."""
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
class FieldReport:
    """The way in which a field is predicted, and its share of right values out of fold."""

    field: str
    """Key of the JSON object."""
    way: str
    """The way in words."""
    accuracy: float
    """Share of right values out of fold, from 0 to 1."""


class FieldPredictor:
    """Predicts the values of one field, which are JSON texts."""

    def __init__(self, texts: Sequence[str], rows: RowsByKind, values: Sequence[str]) -> None:
        self._values = values
        self._contents = [None if v == ABSENT else content_of(v) for v in values]
        self._is_text = Counter(
            v[:1] == '"' for v, c in zip(values, self._contents, strict=True) if c
        )
        self._patterns = Patterns(texts, self._contents)
        self._candidates = CandidateRows(self._patterns, texts)
        # A value that is not among the candidates of its text is learned by the classifier.
        self._is_copied = [
            content in found
            for content, found in zip(self._contents, self._candidates.contents, strict=True)
        ]
        self.accuracies = self._measure_ways(texts, rows)
        self.way = max(self.accuracies, key=lambda way: self.accuracies[way])
        everything = [*range(len(texts))]
        self._learned = self._learn(rows, everything)

    def predict(self, texts: Sequence[str], rows: RowsByKind) -> list[str]:
        """Return the value for each text."""
        candidates = CandidateRows(self._patterns, texts)
        return self._predict_ways(self._learned, candidates, rows, [*range(len(texts))])[self.way]

    def _measure_ways(self, texts: Sequence[str], rows: RowsByKind) -> dict[str, float]:
        folds = assign_folds(texts)
        right: Counter[str] = Counter()
        for fold in range(FOLDS):
            inside, outside = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
            if not len(inside) or not len(outside):
                continue
            learned = self._learn(rows, inside.tolist())
            chosen = outside.tolist()
            others = {kind: matrix[outside] for kind, matrix in rows.items()}
            predicted = self._predict_ways(learned, self._candidates, others, chosen)
            for way, values in predicted.items():
                pairs = zip(values, chosen, strict=True)
                right[way] += sum(value == self._values[i] for value, i in pairs)
        # In the order of ways, the simplest first: of equally good ones the first is taken.
        return {way: right[way] / len(texts) for way in list_ways()}

    def _learn(self, rows: RowsByKind, chosen: list[int]) -> _Learned:
        """Learn from chosen rows: classifiers of values, of what is not copied, and the copier."""
        marked = [
            COPIED if is_copied else value
            for value, is_copied in zip(self._values, self._is_copied, strict=True)
        ]
        everything, unless_copied = (
            {
                kind: Classified(rows[kind][chosen], [values[i] for i in chosen], c)
                for kind, c in STRENGTHS.items()
            }
            for values in (self._values, marked)
        )
        copier = Copier(self._candidates, self._contents, chosen) if self._patterns.pairs else None
        return _Learned(everything, unless_copied, copier)

    def _predict_ways(
        self, learned: _Learned, candidates: CandidateRows, rows: RowsByKind, chosen: list[int]
    ) -> dict[str, list[str]]:
        """Return the values that each way predicts for chosen texts, whose rows are ``rows``."""
        ways = {"constant": [learned.everything["terms"].constant] * len(chosen)}
        for kind, classifier in learned.everything.items():
            ways[f"classify {kind}"] = classifier.predict(rows[kind])
        if learned.copier is None:
            return ways
        copied = learned.copier.copy(candidates, chosen)
        for kind, classifier in learned.unless_copied.items():
            classified, marked = ways[f"classify {kind}"], classifier.predict(rows[kind])
            ways[f"copy if {kind} say so"] = [
                (self._write(content) if content else value) if mark == COPIED else mark
                for (content, _), value, mark in zip(copied, classified, marked, strict=True)
            ]
            ways[f"copy if likely, else classify {kind}"] = [
                self._write(content) if probability > LIKELY else value
                for (content, probability), value in zip(copied, classified, strict=True)
            ]
        return ways

    def _write(self, content: str) -> str:
        """Return a copied content as JSON text."""
        if self._is_text[True] >= self._is_text[False]:
            return json.dumps(content, ensure_ascii=False)
        try:
            json.loads(content)
        except ValueError:
            return json.dumps(content, ensure_ascii=False)
        return content


class Classified:
    """A classifier of the frequent values of a field."""

    def __init__(self, rows: Rows, values: Sequence[str], c: float) -> None:
        counts = Counter(values)
        ranked = sorted(counts, key=lambda value: (-counts[value], value))
        self.constant = ranked[0]
        recurs = 1 if len(ranked) <= FEW_VALUES else 2
        kept = {value for value in ranked[:MAX_LABELS] if counts[value] >= recurs}
        members = [i for i, value in enumerate(values) if value in kept]
        self._linear: Linear | None = None
        if len(members) >= MIN_CLASSIFIED * len(values):
            self._linear = Linear(rows[members], [values[i] for i in members], c)

    def predict(self, rows: Rows) -> list[str]:
        """Return a value for each row."""
        if self._linear is None:
            return [self.constant] * rows.shape[0]
        return predict(self._linear, rows)


@dataclass(frozen=True)
class _Learned:
    everything: dict[str, Classified]
    unless_copied: dict[str, Classified]
    """Learned from the same rows, with a mark in the place of values that can be copied."""
    copier: Copier | None


class FieldsModel:
    """Predicts JSON objects field by field."""

    def __init__(self, texts: Sequence[str], answers: Sequence[str]) -> None:
        parsed = [parse_object(answer) for answer in answers]
        members = [i for i, fields in enumerate(parsed) if fields is not None]
        objects = [fields for fields in parsed if fields is not None]
        texts = [texts[i] for i in members]
        self._terms, self._words = Vectorizer(texts), WordVectorizer(texts)
        rows = self._rows_of(texts)
        self._style = find_style(answers)
        self._predictors: dict[Path, FieldPredictor] = {
            path: FieldPredictor(texts, rows, [fields.get(path, ABSENT) for fields in objects])
            for path in find_order(objects)
        }

    def _rows_of(self, texts: Sequence[str]) -> RowsByKind:
        return {"terms": self._terms.transform(texts), "words": self._words.transform(texts)}

    def report(self) -> list[FieldReport]:
        """Return how each field is predicted."""
        return [
            FieldReport(".".join(path), p.way, p.accuracies[p.way])
            for path, p in self._predictors.items()
        ]

    def answer(self, texts: Sequence[str]) -> list[str]:
        """Return the JSON object for each text."""
        if not texts:
            return []
        rows = self._rows_of(texts)
        columns = {path: p.predict(texts, rows) for path, p in self._predictors.items()}
        return [
            self._style.write_fields(
                {path: values[i] for path, values in columns.items() if values[i] != ABSENT}
            )
            for i in range(len(texts))
        ]


def list_ways() -> list[str]:
    """Return the names of all ways, the simplest first."""
    classified = [f"classify {kind}" for kind in STRENGTHS]
    copied = [f"copy if {kind} say so" for kind in STRENGTHS]
    likely = [f"copy if likely, else {way}" for way in classified]
    return ["constant", *classified, *copied, *likely]

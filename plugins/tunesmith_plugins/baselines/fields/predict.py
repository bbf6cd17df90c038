"""Predict each field of JSON answers by the method that is most accurate on unseen rows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tunesmith_evidence.classify.coordinates import Basis, find_basis
from tunesmith_evidence.classify.folds import FOLDS, assign_folds
from tunesmith_evidence.classify.vectors import Vectorizer, WordVectorizer
from tunesmith_evidence.tasks.json_answers import (
    FieldPath,
    find_field_order,
    find_json_style,
    parse_json_object,
)
from tunesmith_plugins.baselines.fields.copying import (
    CandidateRows,
    Copier,
    Patterns,
    SpanTable,
    parse_json_content,
)
from tunesmith_plugins.baselines.fields.ways import (
    COPIED,
    WAYS,
    FieldRows,
    LearnedWays,
    RowsByKind,
    WayTest,
    choose_way,
    list_ways,
)

ABSENT = ""
"""Placeholder for the value of a missing field."""
MAX_ROWS = 1_500
"""Maximum number of rows that decide how a field is predicted and what to copy. With more rows, a
sample is used; the classifiers still learn from all rows."""
BLOCK = 500
"""Number of texts whose candidates are held in memory at a time."""


@dataclass(frozen=True)
class FieldReport:
    """The method chosen to predict a field, and its accuracy."""

    field: str
    """Path of the field in the JSON object, joined with dots."""
    way: str
    """Name of the method; see :data:`tunesmith_plugins.baselines.fields.ways.WAYS`."""
    accuracy: float
    """Out-of-fold accuracy, from 0 to 1."""


@dataclass(frozen=True, eq=False)
class TrainingTexts:
    """The training texts, and the sample of them that decides how to predict fields."""

    texts: Sequence[str]
    rows: RowsByKind
    """Feature vectors of all texts."""
    sample: NDArray[np.int64]
    """Indices of the sampled texts, which decide how fields are predicted."""
    sample_rows: RowsByKind
    spans: SpanTable
    """Spans of the sampled texts."""
    folds: NDArray[np.int64]
    """Fold of each sampled text."""


class FieldPredictor:
    """Predicts the values of one field as JSON text."""

    def __init__(self, texts: TrainingTexts, values: Sequence[str]) -> None:
        """Choose a method for the field, and fit it on texts and their values."""
        contents = [None if v == ABSENT else parse_json_content(v) or None for v in values]
        self._is_text = Counter(v[:1] == '"' for v, c in zip(values, contents, strict=True) if c)
        numbers = texts.sample.tolist()
        sampled = [contents[i] for i in numbers]
        self._patterns = Patterns(texts.spans, sampled)
        candidates = CandidateRows(self._patterns, texts.spans)
        marked = _mark([values[i] for i in numbers], sampled, candidates.contents)
        rows = FieldRows(texts.sample_rows, [values[i] for i in numbers], marked)

        def learn(chosen: NDArray[np.int64]) -> LearnedWays:
            members = chosen.tolist()
            return LearnedWays(
                rows.take(chosen), lambda: Copier(candidates, sampled, members), self._write
            )

        tests = []
        for fold in range(FOLDS):
            inside, outside = (np.flatnonzero((texts.folds == fold) == is_out) for is_out in (0, 1))
            if len(inside) and len(outside):
                test = learn(inside), rows.take(outside), candidates, outside.tolist()
                tests.append(WayTest(*test))
        self.way, right = choose_way(list_ways(can_copy=bool(self._patterns.pairs)), tests)
        self.accuracy = right / len(numbers)
        self._learned = learn(np.arange(len(numbers)))
        if len(numbers) < len(values):
            # Marking needs the candidates of all texts, and only these ways use the marks.
            is_marked = WAYS[self.way].copies == "if classified"
            marked = self._mark_all(texts.texts, values, contents) if is_marked else [*values]
            sample = self._learned
            everything = FieldRows(texts.rows, values, marked)
            self._learned = LearnedWays(everything, lambda: sample.copier, self._write)

    def _mark_all(
        self, texts: Sequence[str], values: Sequence[str], contents: Sequence[str | None]
    ) -> list[str]:
        marked: list[str] = []
        for start in range(0, len(texts), BLOCK):
            block = slice(start, start + BLOCK)
            found = CandidateRows(self._patterns, SpanTable(texts[block])).contents
            marked += _mark(values[block], contents[block], found)
        return marked

    def predict(self, spans: SpanTable, rows: RowsByKind) -> list[str]:
        """Return the predicted value of the field for each text, as JSON text."""
        candidates = CandidateRows(self._patterns, spans)
        return self._learned.predict(self.way, rows, candidates, range(len(spans.texts)))

    def _write(self, content: str) -> str:
        """Return copied text as JSON: a number if most values of the field are, else a string."""
        if self._is_text[True] >= self._is_text[False]:
            return json.dumps(content, ensure_ascii=False)
        try:
            json.loads(content)
        except ValueError:
            return json.dumps(content, ensure_ascii=False)
        return content


def _mark(
    values: Sequence[str], contents: Sequence[str | None], candidates: Sequence[Sequence[str]]
) -> list[str]:
    """Replace each value that can be copied from its text with a marker.

    From the result, the classifier learns when to copy, and which value to predict otherwise.
    """
    rows = zip(values, contents, candidates, strict=True)
    return [COPIED if content in found else value for value, content, found in rows]


class FieldsModel:
    """Predicts JSON objects field by field."""

    def __init__(self, texts: Sequence[str], answers: Sequence[str]) -> None:
        parsed = [parse_json_object(answer) for answer in answers]
        members = [i for i, fields in enumerate(parsed) if fields is not None]
        objects = [fields for fields in parsed if fields is not None]
        texts = [texts[i] for i in members]
        self._vectorizers: dict[str, Vectorizer | WordVectorizer] = {
            "terms": Vectorizer(texts),
            "words": WordVectorizer(texts),
        }
        self._bases: dict[str, Basis] = {}
        self._style = find_json_style(answers)
        read = self._read_texts(texts)
        self._predictors: dict[FieldPath, FieldPredictor] = {
            path: FieldPredictor(read, [fields.get(path, ABSENT) for fields in objects])
            for path in find_field_order(objects)
        }

    def _read_texts(self, texts: Sequence[str]) -> TrainingTexts:
        rows = self._rows_of(texts)
        count = min(len(texts), MAX_ROWS)
        numbers = [i * len(texts) // count for i in range(count)]
        bases = {kind: find_basis(matrix[numbers]) for kind, matrix in rows.items()}
        sampled = [texts[i] for i in numbers]
        dense: RowsByKind = {kind: b.convert(rows[kind][numbers]) for kind, b in bases.items()}
        if count == len(texts):
            self._bases, rows = bases, dense
        spans, folds = SpanTable(sampled), assign_folds(sampled)
        return TrainingTexts(texts, rows, np.array(numbers, dtype=np.int64), dense, spans, folds)

    def _rows_of(self, texts: Sequence[str]) -> RowsByKind:
        rows: RowsByKind = {kind: v.transform(texts) for kind, v in self._vectorizers.items()}
        return {**rows, **{kind: basis.convert(rows[kind]) for kind, basis in self._bases.items()}}

    def report(self) -> list[FieldReport]:
        """Return the prediction method chosen for each field."""
        return [
            FieldReport(".".join(path), p.way, p.accuracy) for path, p in self._predictors.items()
        ]

    def answer(self, texts: Sequence[str]) -> list[str]:
        """Return the predicted JSON object for each text."""
        if not texts:
            return []
        rows, spans = self._rows_of(texts), SpanTable(texts)
        columns = {path: p.predict(spans, rows) for path, p in self._predictors.items()}
        return [
            self._style.write_fields(
                {path: values[i] for path, values in columns.items() if values[i] != ABSENT}
            )
            for i in range(len(texts))
        ]

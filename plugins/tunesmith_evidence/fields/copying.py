"""Copy a field's value from the text: the patterns are mined, and a ranker chooses the span.

A candidate is a span of some kind with a conversion. Mined are the pairs of kind and conversion
that give the values of training rows. A logistic regression over the form, the neighbours and the
place of a candidate learns which of them is the value.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.feature_extraction import FeatureHasher
from sklearn.linear_model import LogisticRegression

from tunesmith_evidence.fields.conversions import TEXT, Conversion, list_conversions
from tunesmith_evidence.fields.spans import KINDS, Span, describe_spans, find_spans

MIN_GAIN = 0.04
"""Share of the rows that a pair of kind and conversion must explain beyond those before it."""
MAX_WORDS = 8
MAX_MINED_ROWS = 600
MAX_NEGATIVES = 40
"""Candidates of a training row that are not the value, besides those of rare kinds."""
HASHED_FEATURES = 2**16


def content_of(value: str) -> str | None:
    """Return what a value that is JSON text says: a text or a number; None for other values."""
    loaded = json.loads(value)
    if isinstance(loaded, str):
        return loaded
    is_number = isinstance(loaded, int | float) and not isinstance(loaded, bool)
    return value if is_number else None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A value that could be copied, with its features."""

    content: str
    """Empty if the conversion does not apply to the span: it shows only what is not the value."""
    features: list[str]


class Patterns:
    """Pairs of kinds of spans and conversions that give the values of a field."""

    def __init__(self, texts: Sequence[str], contents: Sequence[str | None]) -> None:
        rows = [(t, c) for t, c in zip(texts, contents, strict=True) if c]
        rows = rows[:: max(1, len(rows) // MAX_MINED_ROWS)]
        values = [content for _, content in rows]
        self.most_words = min(max((len(v.split()) for v in values), default=1), MAX_WORDS)
        self.pairs: list[tuple[str, Conversion]] = []
        self.explained: set[int] = set()
        """Rows whose value some pair gives."""
        conversions = list_conversions(values)
        needed = max(2.0, MIN_GAIN * len(rows))
        for kind in KINDS:
            gains: dict[int, set[int]] = {}
            for row, (text, content) in enumerate(rows):
                if row in self.explained:
                    continue
                spans = find_spans(text, kind, self.most_words)
                for number, conversion in enumerate(conversions):
                    if applies(conversion, kind) and any(
                        conversion.convert(span.text) == content for span in spans
                    ):
                        gains.setdefault(number, set()).add(row)
            while gains:
                best = min(gains, key=lambda n: (-len(gains[n] - self.explained), n))
                if len(gains[best] - self.explained) < needed:
                    break
                self.explained |= gains.pop(best)
                self.pairs.append((kind, conversions[best]))

    def candidates(self, text: str) -> list[Candidate]:
        """Return the candidates in a text."""
        found = []
        for kind in dict.fromkeys(kind for kind, _ in self.pairs):
            spans = find_spans(text, kind, self.most_words)
            described = describe_spans(text, spans)
            for name, conversion in self.pairs:
                if name == kind:
                    found += list(_convert_all(conversion, spans, described))
        return found


def applies(conversion: Conversion, kind: str) -> bool:
    """Return True if a conversion can be used on spans of a kind."""
    if kind == "words":
        return conversion in TEXT
    return conversion.kinds is None or kind in conversion.kinds


def _convert_all(
    conversion: Conversion, spans: Sequence[Span], described: Sequence[list[str]]
) -> list[Candidate]:
    found = []
    for span, features in zip(spans, described, strict=True):
        content = conversion.convert(span.text) or ""
        found.append(Candidate(content, [*features, f"{span.kind}, {conversion.name}"]))
    return found


class CandidateRows:
    """The candidates of many texts, with their features as sparse rows."""

    def __init__(self, patterns: Patterns, texts: Sequence[str]) -> None:
        found = [patterns.candidates(text) for text in texts]
        self.contents = [[c.content for c in candidates] for candidates in found]
        self.starts = np.cumsum([0, *map(len, found)])
        hasher = FeatureHasher(HASHED_FEATURES, input_type="string", alternate_sign=False)
        features = [c.features for candidates in found for c in candidates]
        self.rows = (
            hasher.transform(features) if features else sparse.csr_matrix((0, HASHED_FEATURES))
        )


class Copier:
    """Chooses the candidate of a text that is the value of a field."""

    def __init__(
        self, rows: CandidateRows, contents: Sequence[str | None], chosen: Sequence[int]
    ) -> None:
        """Learn from the texts ``chosen``; ``contents`` are the values of all, None: not copied."""
        self._known = Counter(content for i in chosen if (content := contents[i]) is not None)
        members, targets, known = [], [], []
        for i in chosen:
            right = [content == contents[i] for content in rows.contents[i]]
            if contents[i] is not None and not any(right):
                continue  # the value is written otherwise: these candidates teach nothing
            wrong = [n for n, is_right in enumerate(right) if not is_right]
            kept = set(wrong[:: max(1, -(-len(wrong) // MAX_NEGATIVES))])
            for n, is_right in enumerate(right):
                if is_right or n in kept:
                    members.append(int(rows.starts[i]) + n)
                    targets.append(is_right)
                    # A value is known if another row has it: a new row has no value yet.
                    known.append(self._known[rows.contents[i][n]] > is_right)
        self._model: LogisticRegression | None = None
        if len(set(targets)) == 2:
            model = LogisticRegression(C=3.0, solver="liblinear", max_iter=200, random_state=0)
            self._model = model.fit(_with_column(rows.rows[members], known), targets)
        self._only = any(targets)

    def copy(self, rows: CandidateRows, chosen: Sequence[int]) -> list[tuple[str, float]]:
        """Return the best candidate of each chosen text with its probability; ("", 0) if none."""
        found = []
        for i in chosen:
            start, end = rows.starts[i], rows.starts[i + 1]
            if start == end:
                found.append(("", 0.0))
                continue
            contents = rows.contents[i]
            known = [self._known[content] > 0 for content in contents]
            probabilities = self._probabilities(rows.rows[start:end], known).round(9)
            probabilities[[not content for content in contents]] = 0
            best = int(probabilities.argmax())
            found.append((contents[best], float(probabilities[best])))
        return found

    def _probabilities(self, rows: sparse.csr_matrix, known: Sequence[bool]) -> NDArray[np.float64]:
        if self._model is None:
            return np.full(rows.shape[0], float(self._only))
        return np.asarray(self._model.predict_proba(_with_column(rows, known))[:, 1])


def _with_column(rows: sparse.csr_matrix, values: Sequence[bool]) -> sparse.csr_matrix:
    column = sparse.csr_matrix(np.array(values, dtype=float)[:, None])
    return sparse.hstack([rows, column], format="csr")

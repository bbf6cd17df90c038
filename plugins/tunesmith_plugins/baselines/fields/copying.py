"""Copy a field's value from the text, with mined patterns and a ranker.

A candidate is a span of some kind, together with a conversion. Mining finds the pairs of kind and
conversion that reproduce the values in the training rows. A logistic regression then learns from a
candidate's form, neighbors and position whether it is the value.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.feature_extraction import FeatureHasher
from sklearn.linear_model import LogisticRegression

from tunesmith_plugins.baselines.fields.conversions import (
    TEXT,
    Conversion,
    list_conversions,
    normalize_key,
)
from tunesmith_plugins.baselines.fields.spans import KINDS, TextSpan, describe_spans, find_spans

MIN_GAIN = 0.04
"""Share of rows that a pair of kind and conversion must explain beyond those of earlier pairs."""
MAX_WORDS = 8
MAX_MINED_ROWS = 600
MAX_NEGATIVES = 40
"""Maximum number of incorrect candidates used per training row."""
HASHED_FEATURES = 2**16


def parse_json_content(value: str) -> str | None:
    """Return the string or number in a JSON value as text, or None for any other value."""
    loaded = json.loads(value)
    if isinstance(loaded, str):
        return loaded
    is_number = isinstance(loaded, int | float) and not isinstance(loaded, bool)
    return value if is_number else None


class Patterns:
    """Pairs of a span kind and a conversion that produce the values of a field."""

    def __init__(self, spans: SpanTable, contents: Sequence[str | None]) -> None:
        """Mine the texts of ``spans``. ``contents`` are the values; None: it cannot be copied."""
        rows = [(row, content) for row, content in enumerate(contents) if content]
        rows = rows[:: max(1, len(rows) // MAX_MINED_ROWS)]
        values = [content for _, content in rows]
        self.most_words = min(max((len(v.split()) for v in values), default=1), MAX_WORDS)
        self.pairs: list[tuple[str, Conversion]] = []
        self.explained: set[int] = set()
        """Numbers of the mined rows whose value is produced by at least one pair."""
        conversions = list_conversions(values)
        needed = max(2.0, MIN_GAIN * len(rows))
        for kind in KINDS:
            applied = [(n, c) for n, c in enumerate(conversions) if is_applicable(c, kind)]
            gains: dict[int, set[int]] = {}
            for number, (row, content) in enumerate(rows):
                if number not in self.explained:
                    texts = spans.texts_of(row, kind, self.most_words)
                    for found in _find_conversions(applied, texts, content):
                        gains.setdefault(found, set()).add(number)
            while gains:
                best = min(gains, key=lambda n: (-len(gains[n] - self.explained), n))
                if len(gains[best] - self.explained) < needed:
                    break
                self.explained |= gains.pop(best)
                self.pairs.append((kind, conversions[best]))

    def group(self) -> dict[str, list[Conversion]]:
        """Return the conversions grouped by span kind."""
        groups: dict[str, list[Conversion]] = {}
        for kind, conversion in self.pairs:
            groups.setdefault(kind, []).append(conversion)
        return groups


def _find_conversions(
    conversions: Sequence[tuple[int, Conversion]], texts: Collection[str], content: str
) -> Iterator[int]:
    """Yield the index of each conversion that produces ``content`` from one of the texts."""
    has_digit = any(map(str.isdigit, content))
    key = normalize_key(content)
    # Most conversions keep letters and digits, so only texts with the same ones need a try.
    alike = [text for text in texts if normalize_key(text) == key]
    for number, conversion in conversions:
        if conversion.keeps_signs:
            possible: Collection[str] = alike
        else:
            possible = texts if has_digit or not conversion.gives_digits else ()
        if any(conversion.convert(text) == content for text in possible):
            yield number


def is_applicable(conversion: Conversion, kind: str) -> bool:
    """Return True if a conversion applies to spans of this kind."""
    if kind == "words":
        return conversion in TEXT
    return conversion.kinds is None or kind in conversion.kinds


class SpanTable:
    """The spans of many texts with their features, computed once for all fields."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts
        self._found: dict[tuple[str, int], list[list[TextSpan]]] = {}
        self._hashed: dict[tuple[str, int], sparse.csr_matrix] = {}

    def find(self, kind: str, most_words: int) -> list[list[TextSpan]]:
        """Return the spans of a kind in each text."""
        key = (kind, most_words if kind == "words" else 0)
        if key not in self._found:
            self._found[key] = [find_spans(text, kind, most_words) for text in self.texts]
        return self._found[key]

    def texts_of(self, row: int, kind: str, most_words: int) -> set[str]:
        """Return the distinct texts of the spans of a kind in one row."""
        return {span.text for span in self.find(kind, most_words)[row]}

    def hash_features(self, kind: str, most_words: int) -> sparse.csr_matrix:
        """Return the features of all spans of a kind, text by text: (spans, hashed features)."""
        key = (kind, most_words if kind == "words" else 0)
        if key not in self._hashed:
            found = zip(self.texts, self.find(kind, most_words), strict=True)
            described = (
                features for text, spans in found for features in describe_spans(text, spans)
            )
            self._hashed[key] = _hash(described)
        return self._hashed[key]


def _hash(described: Iterable[Sequence[str]]) -> sparse.csr_matrix:
    first = next(rows := iter(described), None)
    if first is None:
        return sparse.csr_matrix((0, HASHED_FEATURES))
    hasher = FeatureHasher(HASHED_FEATURES, input_type="string", alternate_sign=False)
    return hasher.transform(chain([first], rows))


class CandidateRows:
    """The candidates of many texts, with their features as sparse rows.

    If a candidate's conversion does not apply to its span, its content is empty. It then only
    serves as a negative example.
    """

    def __init__(self, patterns: Patterns, spans: SpanTable) -> None:
        self._patterns, self._spans = patterns, spans
        self.contents: list[list[str]] = [[] for _ in spans.texts]
        for kind, conversions in patterns.group().items():
            for contents, found in zip(
                self.contents, spans.find(kind, patterns.most_words), strict=True
            ):
                for conversion in conversions:
                    contents += [conversion.convert(span.text) or "" for span in found]
        self.starts = np.cumsum([0, *map(len, self.contents)])

    @cached_property
    def rows(self) -> sparse.csr_matrix:
        """The features: (candidates, hashed features)."""
        groups, most_words = self._patterns.group(), self._patterns.most_words
        places: list[list[int]] = [[] for _ in self._spans.texts]
        names: list[list[int]] = [[] for _ in self._spans.texts]
        blocks, labels, start = [], list[list[str]](), 0
        for kind, conversions in groups.items():
            block, first = self._spans.hash_features(kind, most_words), start
            for row, found in enumerate(self._spans.find(kind, most_words)):
                for number in range(len(conversions)):
                    places[row] += range(first, first + len(found))
                    names[row] += [len(labels) + number] * len(found)
                first += len(found)
            blocks.append(block)
            labels += [[f"{kind}, {conversion.name}"] for conversion in conversions]
            start += block.shape[0]
        if not blocks:
            return sparse.csr_matrix((0, HASHED_FEATURES))
        stacked = sparse.vstack(blocks, format="csr")
        return stacked[[*chain(*places)]] + _hash(labels)[[*chain(*names)]]


class Copier:
    """Chooses the candidate that is a field's value."""

    def __init__(
        self, rows: CandidateRows, contents: Sequence[str | None], chosen: Sequence[int]
    ) -> None:
        """Fit on the ``chosen`` texts. ``contents`` are all values, with None for the uncopied."""
        self._known = Counter(content for i in chosen if (content := contents[i]) is not None)
        members, targets, known = [], [], []
        for i in chosen:
            right = [content == contents[i] for content in rows.contents[i]]
            if contents[i] is not None and not any(right):
                continue  # The value is not a candidate, so there is no positive example.
            wrong = [n for n, is_right in enumerate(right) if not is_right]
            kept = set(wrong[:: max(1, -(-len(wrong) // MAX_NEGATIVES))])
            for n, is_right in enumerate(right):
                if is_right or n in kept:
                    members.append(int(rows.starts[i]) + n)
                    targets.append(is_right)
                    # A value is known if another row has it; the value of a new row would not be.
                    known.append(self._known[rows.contents[i][n]] > is_right)
        self._model: LogisticRegression | None = None
        if len(set(targets)) == 2:
            model = LogisticRegression(C=3.0, solver="liblinear", max_iter=200, random_state=0)
            self._model = model.fit(_with_column(rows.rows[members], known), targets)
        self._only = any(targets)

    def copy(self, rows: CandidateRows, chosen: Sequence[int]) -> list[tuple[str, float]]:
        """Return the best candidate and its probability for each of the ``chosen`` texts.

        A text that has no candidates gets ("", 0).
        """
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

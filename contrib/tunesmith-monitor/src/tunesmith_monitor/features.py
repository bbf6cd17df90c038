"""Turn requests into numbers: topic, length, language, unknown words and typing style.

The topic is TF-IDF of hashed character n-grams, projected on the main directions of the training
rows. A request's numbers depend on nothing but its text and the training rows.
"""

from __future__ import annotations

import io
import json
import math
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import HashingVectorizer

from tunesmith.storage import write_atomic
from tunesmith_monitor.window_test import Group

Array = npt.NDArray[np.float64]
COLUMNS, MAX_DIRECTIONS = 2**14, 16
MAX_CHARACTERS = 4_000
"""The rest of a longer request is only counted."""
MIN_UNKNOWN_SHARE = 0.3
"""With fewer unknown words, a text is in a language of the training rows."""
MIN_LETTERS = 12
"""Texts with fewer letters are too short to identify their language."""
WORD = re.compile(r"[^\W\d_]+")
LENGTH, LANGUAGE, WORDS, UPPER, MARKS = range(5)
"""Columns after the topic."""


@dataclass(frozen=True)
class FeatureSpace:
    """A summary of the training rows, which turns requests into numbers."""

    directions: npt.NDArray[np.float32]
    """The TF-IDF weights and main directions in one matrix, by hashed n-gram."""
    words: frozenset[int]
    languages: frozenset[str]

    @classmethod
    def fit(cls, texts: Sequence[str]) -> FeatureSpace:
        """Fit the features to the texts of the training rows."""
        counts = _vectorizer().transform([text[:MAX_CHARACTERS] for text in texts])
        rows = np.bincount(counts.indices, minlength=COLUMNS)
        idf_C = np.log((1 + len(texts)) / (1 + rows)) + 1
        directions = max(1, min(MAX_DIRECTIONS, len(texts) - 1))
        model = TruncatedSVD(directions, random_state=0).fit(counts.multiply(idf_C).tocsr())
        words = frozenset(code for text in texts for code in map(_code, _words(text)))
        found = Counter(identify_language(text) for text in texts)
        kept = (code for code, n in found.items() if n >= max(2, len(texts) / 100))
        directions_CD = (model.components_.T * idf_C[:, None]).astype(np.float32)
        return cls(directions_CD, words, frozenset(kept))

    @property
    def groups(self) -> list[Group]:
        """The groups of features, in the order of the columns."""
        first = self.directions.shape[1]
        parts = [("length", LENGTH, LANGUAGE), ("language", LANGUAGE, WORDS)]
        parts += [("unknown words", WORDS, UPPER), ("typing", UPPER, MARKS + 1)]
        rest = [Group(name, slice(first + start, first + stop)) for name, start, stop in parts]
        return [Group("topic", slice(0, first)), *rest]

    def transform(self, texts: Sequence[str]) -> Array:
        """Return the features of each text: (N, F)."""
        counts = _vectorizer().transform([text[:MAX_CHARACTERS] for text in texts])
        topic_ND = counts @ self.directions
        return np.hstack([topic_ND.astype(np.float64), [self._style(text) for text in texts]])

    def list_unknown_words(self, text: str) -> list[str]:
        """Return the words of a text that no training row contains."""
        return [word for word in _words(text) if _code(word) not in self.words]

    def find_new_language(self, text: str) -> str:
        """Return the language of a text if the training rows rarely have it, otherwise ""."""
        words = _words(text)
        if len(self.list_unknown_words(text)) < MIN_UNKNOWN_SHARE * max(1, len(words)):
            return ""
        language = identify_language(text)
        return "" if language in self.languages else language

    def _style(self, text: str) -> list[float]:
        start = text[:MAX_CHARACTERS]
        words, size = _words(start), max(1, len(start))
        unknown = sum(_code(word) not in self.words for word in words)
        return [
            math.log1p(len(text)),
            float(bool(self.find_new_language(start))),
            unknown / max(1, len(words)),
            sum(map(str.isupper, start)) / size,
            sum(not c.isalnum() and not c.isspace() for c in start) / size,
        ]

    def save(self, path: Path, **arrays: Any) -> None:
        """Write the features and additional arrays to a file."""
        content = io.BytesIO()
        words = np.array(sorted(self.words), np.int64)
        languages = np.array(json.dumps(sorted(self.languages)))
        np.savez(content, directions=self.directions, words=words, languages=languages, **arrays)
        write_atomic(path, content.getvalue())

    @classmethod
    def read(cls, path: Path) -> tuple[FeatureSpace, dict[str, Array]]:
        """Read the features and the additional arrays from a file."""
        with np.load(path) as file:
            arrays = dict(file)
        directions, words = arrays.pop("directions"), arrays.pop("words")
        languages = frozenset(json.loads(str(arrays.pop("languages"))))
        return cls(directions, frozenset(words.tolist()), languages), arrays


def identify_language(text: str) -> str:
    """Return the ISO 639 code of the most probable language, or "" for a text of few letters."""
    if sum(map(str.isalpha, text)) < MIN_LETTERS:
        return ""
    code: str = _identifier().classify(text[:1_000])[0]
    return code


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


@cache
def _vectorizer() -> HashingVectorizer:
    return HashingVectorizer(
        analyzer="char_wb", ngram_range=(2, 4), n_features=COLUMNS, alternate_sign=False
    )


def _words(text: str) -> list[str]:
    return WORD.findall(text.lower())


def _code(word: str) -> int:
    return zlib.crc32(word.encode("utf-8", "surrogatepass"))

"""TF-IDF of words, word pairs and character n-grams, as rows of unit length."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.preprocessing import normalize

__all__ = ["Vectorizer", "WordVectorizer"]

MANY_TEXTS = 2_000
"""Of more texts than this, terms of a single text are skipped."""
MAX_TERMS = 200_000
MAX_CHARACTERS = 20_000
"""Longer texts count with their beginning."""
_WORD = re.compile(r"\w+")


class Vectorizer:
    """Turns texts into sparse rows, whose products are cosines, by the terms of training texts.

    A term that all training texts have, such as an instruction that is the same in all, counts
    nothing.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        limits: dict[str, Any] = {
            "min_df": 1 if len(texts) <= MANY_TEXTS else 2,
            "max_features": MAX_TERMS,
            "dtype": np.float64,
            "token_pattern": None,
        }
        self._counters = [
            CountVectorizer(ngram_range=(1, 2), tokenizer=_WORD.findall, **limits),
            CountVectorizer(analyzer="char_wb", ngram_range=(1, 4), **limits),
        ]
        self._idf = []
        for counter in self._counters:
            try:
                counts = counter.fit_transform(_shortened(texts))
            except ValueError:  # no text has a term
                counts = None
            found = (
                np.zeros(0)
                if counts is None
                else np.bincount(counts.indices, minlength=counts.shape[1])
            )
            self._idf.append(np.log((1 + len(texts)) / (1 + found)))

    def transform(self, texts: Sequence[str]) -> sparse.csr_matrix:
        """Return a row of unit length for each text, or of zeros if it shares no term."""
        blocks = []
        for counter, idf in zip(self._counters, self._idf, strict=True):
            if not len(idf):
                continue
            counts = counter.transform(_shortened(texts))
            counts.data = (1 + np.log(counts.data)) * idf[counts.indices]
            blocks.append(normalize(counts))
        if not blocks:
            return sparse.csr_matrix((len(texts), 1))
        return normalize(sparse.hstack(blocks, format="csr"))


class WordVectorizer:
    """Turns texts into sparse rows of ones, for the words and word pairs that they have."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._counter = CountVectorizer(
            ngram_range=(1, 2),
            tokenizer=_WORD.findall,
            token_pattern=None,
            binary=True,
            min_df=1 if len(texts) <= MANY_TEXTS else 2,
            max_features=MAX_TERMS,
            dtype=np.float64,
        )
        try:
            self._counter.fit(_shortened(texts))
        except ValueError:  # no text has a word
            self._counter = None

    def transform(self, texts: Sequence[str]) -> sparse.csr_matrix:
        """Return a row for each text."""
        if self._counter is None:
            return sparse.csr_matrix((len(texts), 1))
        return self._counter.transform(_shortened(texts))


def _shortened(texts: Sequence[str]) -> list[str]:
    return [text[:MAX_CHARACTERS] for text in texts]

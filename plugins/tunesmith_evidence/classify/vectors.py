"""Vectorize texts by TF-IDF of words, word pairs and character n-grams."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.preprocessing import normalize

__all__ = ["Vectorizer", "WordVectorizer"]

MANY_TEXTS = 2_000
"""If there are more texts than this, terms that occur in only one text are ignored."""
MAX_TERMS = 200_000
MAX_CHARACTERS = 20_000
"""Longer texts are truncated to this many characters."""
_WORD = re.compile(r"\w+")
Counted: TypeAlias = "tuple[CountVectorizer, sparse.csr_matrix | None]"


class Vectorizer:
    """Turns texts into sparse unit-length rows over the terms of the training texts.

    The inner product of two rows is their cosine similarity. Terms that occur in all training
    texts, such as those of a shared instruction, have zero weight.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        learned = [_count_words(texts), _count(texts, analyzer="char_wb", grams=(1, 4))]
        self._counters = [
            (counter, np.log((1 + len(texts)) / (1 + np.bincount(counts.indices))))
            for counter, counts in learned
            if counts is not None
        ]

    def transform(self, texts: Sequence[str]) -> sparse.csr_matrix:
        """Return a unit-length row for each text, or zeros if it has no known term."""
        blocks = []
        for counter, idf in self._counters:
            counts = counter.transform(_shortened(texts))
            counts.data = (1 + np.log(counts.data)) * idf[counts.indices]
            blocks.append(normalize(counts))
        if not blocks:
            return sparse.csr_matrix((len(texts), 1))
        return normalize(sparse.hstack(blocks, format="csr"))


class WordVectorizer:
    """Turns texts into sparse rows with a 1 for each word and word pair that they contain."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._counter, counts = _count_words(texts, binary=True)
        self._has_terms = counts is not None

    def transform(self, texts: Sequence[str]) -> sparse.csr_matrix:
        """Return a row of zeros and ones for each text."""
        if not self._has_terms:
            return sparse.csr_matrix((len(texts), 1))
        return self._counter.transform(_shortened(texts))


def _count_words(texts: Sequence[str], *, binary: bool = False) -> Counted:
    return _count(texts, tokenizer=_WORD.findall, grams=(1, 2), binary=binary)


def _count(texts: Sequence[str], *, grams: tuple[int, int], **options: Any) -> Counted:
    """Return a term counter fitted on texts, and the counts (None if the texts have no terms)."""
    counter = CountVectorizer(
        ngram_range=grams,
        token_pattern=None,
        min_df=1 if len(texts) <= MANY_TEXTS else 2,
        max_features=MAX_TERMS,
        dtype=np.float64,
        **options,
    )
    try:
        return counter, counter.fit_transform(_shortened(texts))
    except ValueError:
        return counter, None


def _shortened(texts: Sequence[str]) -> list[str]:
    return [text[:MAX_CHARACTERS] for text in texts]

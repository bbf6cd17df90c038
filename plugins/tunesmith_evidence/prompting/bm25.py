"""Rank texts by the discriminative terms that they share with a query (BM25).

Source: Robertson and Zaragoza, The Probabilistic Relevance Framework: BM25 and Beyond (2009).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["BM25"]

K1, B = 1.2, 0.75
"""Saturation of repeated words, and length normalization, with their usual values."""
_WORD = re.compile(r"\w+")


def split_words(text: str) -> list[str]:
    """Return the words of a text in lower case."""
    return _WORD.findall(text.casefold())


class BM25:
    """Ranks texts for a query with an inverted index over their words."""

    def __init__(self, texts: Sequence[str]) -> None:
        rows: dict[str, list[int]] = {}
        counts: dict[str, list[int]] = {}
        lengths = np.zeros(len(texts))
        for row, text in enumerate(texts):
            words = Counter(split_words(text))
            lengths[row] = words.total()
            for word, count in words.items():
                rows.setdefault(word, []).append(row)
                counts.setdefault(word, []).append(count)
        norm = K1 * (1 - B + B * lengths / max(lengths.mean() if len(texts) else 0, 1))
        self._size = len(texts)
        self._postings: dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]] = {}
        for word, found in rows.items():
            idf = math.log1p((len(texts) - len(found) + 0.5) / (len(found) + 0.5))
            where, tf = np.array(found), np.array(counts[word], dtype=float)
            self._postings[word] = where, idf * tf * (K1 + 1) / (tf + norm[where])

    def scores(self, query: str) -> NDArray[np.float64]:
        """Return the score of each text, which is 0 if it shares no word with the query."""
        scores = np.zeros(self._size)
        for word in sorted(set(split_words(query))):
            if word in self._postings:
                rows, weights = self._postings[word]
                scores[rows] += weights
        return scores

    def ranked(self, query: str) -> NDArray[np.int64]:
        """Return the indices of the texts, the best match first; ties keep their order."""
        return np.argsort(-self.scores(query), kind="stable")

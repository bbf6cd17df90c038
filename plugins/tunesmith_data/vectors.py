"""Vectorize texts: TF-IDF of character n-grams, optionally reduced to fewer dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

__all__ = ["MAX_TEXT_CHARACTERS", "Vectors", "fit_text_vectors"]

Vectors: TypeAlias = npt.NDArray[np.float32]

DIMENSIONS = 128
MAX_GRAMS = 50_000
MAX_TEXT_CHARACTERS = 4_000
"""Longer texts are truncated to this many characters."""


def weigh_grams(texts: Sequence[str], most: int, dtype: type[np.floating[Any]]) -> csr_matrix:
    """Return TF-IDF weights of the ``most`` most frequent character 3- to 5-grams: (texts, grams).

    Raises:
        ValueError: no text has any gram.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(
        analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True, max_features=most, dtype=dtype
    )
    return vectorizer.fit_transform([text[:MAX_TEXT_CHARACTERS] for text in texts])


def fit_text_vectors(texts: Sequence[str]) -> Vectors:
    """Return a unit-length vector for each text; the result is deterministic.

    For more than 128 texts, the TF-IDF weights are reduced to 128 dimensions (latent semantic
    analysis, Deerwester et al., 1990). A text without any n-gram gets a zero vector.
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.preprocessing import normalize

    try:
        weights = weigh_grams(texts, MAX_GRAMS, np.float32)
    except ValueError:  # No text has any gram.
        return np.zeros((len(texts), 1), np.float32)
    if min(weights.shape) <= DIMENSIONS:
        return np.asarray(weights.toarray(), np.float32)
    vectors: Vectors = normalize(TruncatedSVD(DIMENSIONS, random_state=0).fit_transform(weights))
    return vectors

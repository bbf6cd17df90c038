"""Dense coordinates of sparse rows: the same products, and the same classifiers."""

from __future__ import annotations

import random

import numpy as np
import pytest

from tunesmith_evidence.classify.classifiers import LinearClassifier, predict
from tunesmith_evidence.classify.coordinates import find_basis
from tunesmith_evidence.classify.vectors import Vectorizer, WordVectorizer

WORDS = ("red", "green", "blue", "open", "shut", "old", "new", "round", "flat", "cold", "warm")
TEXTS = [" ".join(random.Random(seed).choices(WORDS, k=6)) for seed in range(90)]
TEXTS += TEXTS[:5]  # equal rows: fewer dimensions than rows


@pytest.mark.parametrize("kind", [Vectorizer, WordVectorizer])
def test_products_stay(kind: type[Vectorizer | WordVectorizer]) -> None:
    rows = kind(TEXTS).transform(TEXTS)
    basis = find_basis(rows[:70])
    dense, others = basis.convert(rows[:70]), basis.convert(rows[70:])
    assert dense.shape[1] <= 70
    assert np.allclose(dense.matrix @ dense.matrix.T, (rows[:70] @ rows[:70].T).toarray())
    assert np.allclose(others.matrix @ dense.matrix.T, (rows[70:] @ rows[:70].T).toarray())


@pytest.mark.parametrize(("kind", "c"), [(Vectorizer, 30.0), (WordVectorizer, 1.0)])
@pytest.mark.parametrize("labels", [2, 7])
def test_a_classifier_of_coordinates_is_that_of_the_terms(
    kind: type[Vectorizer | WordVectorizer], c: float, labels: int
) -> None:
    vectorizer = kind(TEXTS)
    rows = vectorizer.transform(TEXTS)
    basis = find_basis(rows)
    dense = basis.convert(rows)
    values = [str(WORDS.index(text.split()[0]) % labels) for text in TEXTS]
    inside, outside = [*range(60)], [*range(60, len(TEXTS))]
    of_terms = LinearClassifier(rows[inside], values[:60], c)
    of_coordinates = LinearClassifier(dense[inside], values[:60], c)
    # Both stop before the optimum, at the same step: it is the path that is equal.
    scores = of_terms.scores(rows[outside])
    assert np.allclose(of_coordinates.scores(dense[outside]), scores, rtol=1e-5, atol=1e-6)
    assert predict(of_coordinates, dense[outside]) == predict(of_terms, rows[outside])


def test_rows_without_terms() -> None:
    vectorizer = Vectorizer(TEXTS)
    basis = find_basis(vectorizer.transform(TEXTS))
    assert basis.convert(vectorizer.transform(["αβγ", "red"])).find_empty().tolist() == [
        True,
        False,
    ]
    empty = find_basis(Vectorizer(["", ""]).transform(["", ""]))
    assert empty.convert(Vectorizer(["", ""]).transform(["x"])).shape == (1, 0)
    assert predict(
        LinearClassifier(empty.convert(empty.rows), ["a", "b"], 1.0), empty.convert(empty.rows)
    )

"""Train classifiers on vectorized texts with one label each, and predict labels.

The rows are the sparse rows of a :class:`~tunesmith_evidence.classify.vectors.Vectorizer`, or an
array with the vectors of an encoder. A row of zeros, such as one without any known term, gets the
most frequent label. Each prediction is independent of the other rows to predict.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import normalize

from tunesmith_evidence.answers.normalize import normalize_unicode
from tunesmith_evidence.classify.coordinates import DenseRows, fit_logistic
from tunesmith_evidence.tasks.kinds import list_labels

__all__ = [
    "Classifier",
    "LinearClassifier",
    "NearestCentroid",
    "NearestRowsClassifier",
    "Rows",
    "predict",
]

Rows: TypeAlias = "sparse.csr_matrix | DenseRows | NDArray[np.float64]"
BATCH_ROWS = 1_000
"""Number of rows whose similarities are held in memory at a time."""
MAX_ITER, TOL = 300, 1e-3
"""Limits of the logistic regression, ``max_iter`` and ``tol`` in scikit-learn."""


class Classifier(Protocol):
    """A trained classifier, which scores every label for a row."""

    @property
    def labels(self) -> Sequence[str]:
        """The labels, the most frequent first."""
        ...

    def scores(self, rows: Rows) -> NDArray[np.float64]:
        """Return the score of each label for each row: (rows, labels)."""
        ...


class NearestRowsClassifier:
    """Lets the k most similar training rows vote, weighted by their similarity."""

    def __init__(self, rows: Rows, labels: Sequence[str], k: int) -> None:
        self.labels = list_labels(labels)
        self._rows = rows
        self._codes = encode_labels(labels, self.labels)
        self._k = min(k, len(labels))

    def scores(self, rows: Rows) -> NDArray[np.float64]:
        """Return, for each label, the sum of similarities of the k nearest rows: (rows, labels)."""
        votes = np.zeros((rows.shape[0], len(self.labels)))
        for start in range(0, rows.shape[0], BATCH_ROWS):
            similarities = _products(rows[start : start + BATCH_ROWS], self._rows)
            nearest = np.argsort(-similarities, axis=1, kind="stable")[:, : self._k]
            for row, found in enumerate(nearest, start):
                np.add.at(votes[row], self._codes[found], similarities[row - start, found])
        return votes


class NearestCentroid:
    """Predicts the label whose centroid, the mean of its training rows, is the most similar."""

    def __init__(self, rows: Rows, labels: Sequence[str]) -> None:
        self.labels = list_labels(labels)
        codes = encode_labels(labels, self.labels)
        members = sparse.csr_matrix(
            (np.ones(len(codes)), (codes, np.arange(len(codes)))), (len(self.labels), len(codes))
        )
        self._centroids = normalize(members @ rows)

    def scores(self, rows: Rows) -> NDArray[np.float64]:
        """Return the cosine similarity to each centroid: (rows, labels)."""
        return _products(rows, self._centroids)


class LinearClassifier:
    """Multinomial logistic regression without class weights."""

    def __init__(self, rows: Rows, labels: Sequence[str], c: float) -> None:
        self.labels = list_labels(labels)
        codes = encode_labels(labels, self.labels)
        if len(self.labels) == 1:
            self._weights, self._bias = np.zeros((rows.shape[1], 1)), np.zeros(1)
            return
        if isinstance(rows, DenseRows):
            weights, bias = fit_logistic(rows, codes, c, max_iter=MAX_ITER, tol=TOL)
        else:
            with warnings.catch_warnings():
                # Few rows per label are normal here. scikit-learn suspects a regression problem.
                warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
                model = LogisticRegression(C=c, max_iter=MAX_ITER, tol=TOL).fit(rows, codes)
            weights, bias = np.ascontiguousarray(model.coef_.T), model.intercept_
        if len(self.labels) == 2:
            weights = np.hstack([-weights, weights]) / 2
            bias = np.concatenate([-bias, bias]) / 2
        self._weights, self._bias = weights, bias

    def scores(self, rows: Rows) -> NDArray[np.float64]:
        """Return the logit of each label: (rows, labels)."""
        return np.asarray(rows @ self._weights) + self._bias


def encode_labels(values: Sequence[str], labels: Sequence[str]) -> NDArray[np.int64]:
    """Return the index of each value in ``labels``."""
    numbers = {normalize_unicode(label): number for number, label in enumerate(labels)}
    return np.array([numbers[normalize_unicode(value)] for value in values], dtype=np.int64)


def predict(classifier: Classifier, rows: Rows) -> list[str]:
    """Return the label with the highest score per row. Ties go to the more frequent label."""
    return [label for label, _ in predict_with_lead(classifier, rows)]


def predict_with_lead(classifier: Classifier, rows: Rows) -> list[tuple[str, float]]:
    """Return each row's label, as in :func:`predict`, with its lead over the second-best label.

    The lead is a difference of scores: for a logistic regression, the log-odds of the two labels.
    """
    scores = classifier.scores(rows).round(12)
    ordered = np.sort(scores, axis=1)
    leads = ordered[:, -1] - ordered[:, -2] if scores.shape[1] > 1 else np.zeros(len(scores))
    return [
        (classifier.labels[0], 0.0) if is_empty else (classifier.labels[best], lead)
        for best, lead, is_empty in zip(
            scores.argmax(axis=1).tolist(), leads.tolist(), _find_empty(rows), strict=True
        )
    ]


def _products(rows: Any, others: Any) -> NDArray[np.float64]:
    """Return the inner products of all pairs of rows from the two matrices, as an array."""
    products = rows @ others.T
    return np.asarray(products.toarray() if sparse.issparse(products) else products)


def _find_empty(rows: Rows) -> NDArray[np.bool_]:
    """Return a boolean mask of the rows of zeros."""
    if isinstance(rows, DenseRows):
        return rows.find_empty()
    if isinstance(rows, np.ndarray):
        return np.asarray(~rows.any(axis=1))
    return np.asarray(np.diff(rows.indptr) == 0)

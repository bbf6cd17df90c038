"""Cross-validate classifiers on the training rows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tunesmith_evidence.classify.classifiers import Classifier, Rows, predict

__all__ = ["FOLDS", "FitClassifier", "assign_folds"]

FOLDS = 5
MAX_MEASURED = 1_000
"""Maximum number of rows to predict; more rows would take time without changing the choice."""
FitClassifier: TypeAlias = Callable[[Rows, Sequence[str]], Classifier]
"""A function that trains a classifier on rows and their labels."""


def assign_folds(texts: Sequence[str]) -> NDArray[np.int64]:
    """Return the fold of each text, with equal texts in the same fold."""
    digests = (
        hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=4).digest()
        for text in texts
    )
    return np.array([int.from_bytes(digest, "big") % FOLDS for digest in digests], dtype=np.int64)


def choose_out_of_fold(
    ways: Mapping[str, FitClassifier],
    rows: Rows,
    labels: Sequence[str],
    folds: NDArray[np.int64],
    margin: float = 0.0,
) -> str:
    """Return the first method that no other clearly beats in out-of-fold accuracy.

    ``margin`` is the number of standard errors of the difference that count as clear. With 0, the
    method with the best accuracy is chosen; ties go to the first. With 1, this is the
    one-standard-error rule of Breiman et al., Classification and Regression Trees (1984), 3.4.3.
    """
    if len(ways) == 1:
        return next(iter(ways))
    right = {
        name: _find_right(learn, rows, labels, folds, MAX_MEASURED // FOLDS)
        for name, learn in ways.items()
    }
    best = max(right.values(), key=np.sum)
    return next(
        name
        for name, found in right.items()
        if best.sum() - found.sum() <= margin * np.sqrt((best != found).sum())
    )


def _find_right(
    learn: FitClassifier, rows: Rows, labels: Sequence[str], folds: NDArray[np.int64], most: int
) -> NDArray[np.bool_]:
    """Return for each measured row whether a model trained on the other folds gets it right."""
    right: list[bool] = []
    for fold in range(FOLDS):
        inside, outside = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        if len(inside) and len(outside):
            measured = outside[:: -(-len(outside) // most)]
            classifier = learn(rows[inside], [labels[i] for i in inside.tolist()])
            found = zip(predict(classifier, rows[measured]), measured.tolist(), strict=True)
            right += [label == labels[i] for label, i in found]
    return np.array(right, dtype=bool)

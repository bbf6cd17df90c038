"""Speed up logistic regression by replacing sparse rows with a few dense coordinates.

The weights of a model with an L2 penalty are linear combinations of its training rows (Kimeldorf
and Wahba 1971). In an orthonormal basis of these rows, the model is the same but has at most one
weight per row and label, instead of one for each of many thousand terms. L-BFGS uses only inner
products, so if it starts at zero, it takes the same steps in either basis.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import minimize
from scipy.special import expit, logsumexp

__all__ = ["Basis", "find_basis"]

Floats = NDArray[np.float64]
MIN_EIGENVALUE_SHARE = 1e-13
"""Eigenvalues below this share of the largest one count as rounding noise."""


@dataclass(frozen=True, eq=False)
class Basis:
    """An orthonormal basis of the space spanned by training rows."""

    rows: sparse.csr_matrix
    """The training rows: (rows, terms)."""
    combinations: Floats
    """Each basis vector as a linear combination of rows: (rows, dimensions)."""

    def convert(self, rows: sparse.csr_matrix) -> DenseRows:
        """Return the coordinates of other rows in this basis."""
        return DenseRows((rows @ self.rows.T).toarray() @ self.combinations, self)

    def find_largest(self, gradient: Floats) -> float:
        """Return the largest component, in term space, of a gradient (dimensions, labels)."""
        return float(np.abs(self.rows.T @ (self.combinations @ gradient)).max(initial=0.0))


@dataclass(frozen=True, eq=False)
class DenseRows:
    """Rows of a matrix, stored as coordinates in an orthonormal basis."""

    matrix: Floats
    """The coordinates: (rows, dimensions)."""
    basis: Basis

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of rows and the number of dimensions."""
        return self.matrix.shape

    def find_empty(self) -> NDArray[np.bool_]:
        """Return a boolean mask of the rows without any term."""
        return np.asarray(~self.matrix.any(axis=1))

    def __getitem__(self, chosen: Any) -> DenseRows:
        """Return the chosen rows."""
        return replace(self, matrix=self.matrix[chosen])

    def __matmul__(self, weights: Floats) -> Floats:
        """Return the products with weights: (rows, labels)."""
        return np.asarray(self.matrix @ weights)


def find_basis(rows: sparse.csr_matrix) -> Basis:
    """Return a basis of the space spanned by these rows.

    In its coordinates, the inner products of these rows with any other rows stay the same.
    """
    values, vectors = np.linalg.eigh((rows @ rows.T).toarray())
    kept = values > MIN_EIGENVALUE_SHARE * max(float(values[-1]), MIN_EIGENVALUE_SHARE)
    return Basis(rows, vectors[:, kept] / np.sqrt(values[kept]))


def fit_logistic(
    rows: DenseRows, codes: NDArray[np.int64], c: float, *, max_iter: int, tol: float
) -> tuple[Floats, Floats]:
    """Fit a logistic regression for two or more labels, with scikit-learn's loss and stopping rule.

    Returns:
        The weights (dimensions, labels), and the bias of each label. If there are two labels, there
        is only one column, for the second label.
    """
    count, dimensions = rows.shape
    labels = int(codes.max()) + 1
    columns = 1 if labels == 2 else labels
    targets = np.equal.outer(codes, np.arange(labels)).astype(float)[:, -columns:]

    last: list[Any] = [b"", np.zeros(0)]  # the last evaluated point and its gradient

    def unpack(x: Floats) -> tuple[Floats, Floats]:
        table = x.reshape(dimensions + 1, columns)
        return table[:-1], table[-1]

    def measure(x: Floats) -> tuple[float, Floats]:
        weights, bias = unpack(x)
        scores = rows @ weights + bias
        if columns == 1:
            totals, expected = np.logaddexp(0, scores), expit(scores)
        else:
            totals = logsumexp(scores, axis=1, keepdims=True)
            expected = np.exp(scores - totals)
        penalty = weights / (c * count)
        errors = (expected - targets) / count
        loss = (totals.sum() - (scores * targets).sum()) / count + (weights * penalty).sum() / 2
        gradient = np.vstack([rows.matrix.T @ errors + penalty, errors.sum(axis=0)])
        last[:] = x.tobytes(), gradient
        return float(loss), gradient.ravel()

    def stop_at_tolerance(intermediate_result: Any) -> None:
        if last[0] != intermediate_result.x.tobytes():
            measure(intermediate_result.x)
        gradient = last[1]
        if max(rows.basis.find_largest(gradient[:-1]), float(np.abs(gradient[-1]).max())) <= tol:
            raise StopIteration

    options = {"maxiter": max_iter, "maxls": 50, "gtol": 0, "ftol": 64 * np.finfo(float).eps}
    start = np.zeros((dimensions + 1) * columns)
    found = minimize(
        measure, start, jac=True, method="L-BFGS-B", options=options, callback=stop_at_tolerance
    )
    return unpack(found.x)

"""Split a metric that is not a mean of rows, such as macro F1 or BLEU, into row contributions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Matrix"]

Matrix: TypeAlias = "NDArray[np.float64]"
_STEP = 1e-4  # step of the numeric derivative, relative to a row's weight
_CELLS = 1 << 20  # counts of rows that are shifted at once; macro F1 of 1,000 labels has 3,000 each
_DIGITS = 9  # rounds away derivative errors, so that equivalent rows get equal values


def row_contributions(
    counts: Sequence[Sequence[float]],
    compute: Callable[[Matrix], Matrix],
    weights: Sequence[float] | None = None,
) -> tuple[float, ...]:
    """Return one value per row, whose weighted mean is the metric of all rows.

    A row's value is the metric plus the row's influence: the change in the metric with the weight
    of the row (infinitesimal jackknife). By the delta method, intervals and paired differences of
    these values are intervals and differences of the metric. Values can lie outside the metric's
    bounds.

    Args:
        counts: the counts of each row; the metric only depends on their sums.
        compute: a function that returns the metric for each row of a matrix whose columns are such
            sums.
        weights: the row weights that the mean will use; None for equal weights.

    Source: Efron, The Jackknife, the Bootstrap and Other Resampling Plans (1982), chapter 6.
    """
    import numpy as np  # Lazy: commands that only show results must not load numpy.

    if not counts:
        return ()
    rows = np.asarray(counts, dtype=np.float64)
    total = rows.sum(axis=0, keepdims=True)
    value = float(compute(total)[0])
    influence = np.empty(len(rows))
    at_once = max(1, _CELLS // rows.shape[1])
    for start in range(0, len(rows), at_once):
        part = slice(start, start + at_once)
        shifts = (rows[part] * len(rows) - total) * (_STEP / len(rows))
        change = compute(total + shifts) - compute(total - shifts)
        influence[part] = change * (len(rows) / (2 * _STEP))
    influence -= influence.mean()  # Exactly zero in theory; this removes the derivative's error.
    mass = np.ones(len(rows)) if weights is None else np.asarray(weights, dtype=np.float64)
    values = value + influence * (mass.mean() / mass)
    return tuple(round(v, _DIGITS) for v in values.tolist())

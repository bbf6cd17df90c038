"""Contributions of rows to a metric that is not a mean of rows, such as macro F1 or BLEU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Matrix"]

Matrix: TypeAlias = "NDArray[np.float64]"
_STEP = 1e-4  # relative to the weight of a row
_DIGITS = 9  # more are errors of the numeric derivative; rows that count alike have equal values


def row_contributions(
    counts: Sequence[Sequence[float]],
    compute: Callable[[Matrix], Matrix],
    weights: Sequence[float] | None = None,
) -> tuple[float, ...]:
    """Return one value for each row, whose weighted mean is the metric of all rows.

    A value is the metric plus the influence of its row: by how much the metric changes with the
    weight of the row (the infinitesimal jackknife). Intervals, groups and paired differences of
    the values are then those of the metric by the delta method. Values may lie outside of the
    metric's bounds.

    Args:
        counts: numbers of each row, of which the metric needs the sums only.
        compute: returns the metric for each row of a matrix, whose columns are such sums.
        weights: of the rows, as the values will be weighted; None: all alike.

    Source: Efron, The Jackknife, the Bootstrap and Other Resampling Plans (1982), chapter 6.
    """
    import numpy as np  # not above: commands that only show results import this package

    if not counts:
        return ()
    rows = np.asarray(counts, dtype=np.float64)
    total = rows.sum(axis=0, keepdims=True)
    value = float(compute(total)[0])
    shifts = (rows * len(rows) - total) * (_STEP / len(rows))
    influence = (compute(total + shifts) - compute(total - shifts)) * (len(rows) / (2 * _STEP))
    influence -= influence.mean()  # zero but for the error of the derivative
    mass = np.ones(len(rows)) if weights is None else np.asarray(weights, dtype=np.float64)
    values = value + influence * (mass.mean() / mass)
    return tuple(round(v, _DIGITS) for v in values.tolist())

"""Extrapolate a score to more training rows with a power law of its errors.

The model of the error after n rows is ``a * n ** -b`` (Hestness et al., "Deep Learning Scaling is
Predictable, Empirically", 2017, section 2). The interval comes from resampling the test
rows, which are the same for every number of training rows. It ignores the variation between
training seeds. Shapes: P pilots, N test rows, R resamples.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tunesmith_evidence.statistics.differences import label_unit

Array = npt.NDArray[np.float64]
RESAMPLES = 2_000
MIN_POINTS = 3
MAX_UNCLEAR = 0.1
"""Do not extrapolate if a larger share of the resamples shows no improvement."""


@dataclass(frozen=True)
class Extrapolation:
    """The predicted error after a number of training rows, or why it cannot be predicted."""

    rows: int
    """Number of training rows for which the error is predicted."""
    error: float = float("nan")
    """Predicted mean error, in the unit of the errors, or NaN without a prediction."""
    resampled: tuple[float, ...] = ()
    """Predicted error of each resample, in the order of :func:`average_resamples`."""
    exponent: float = float("nan")
    """``b`` of the power law: how fast the error falls with more rows; NaN without a prediction."""
    reason: str = ""
    """The reason why no error is predicted, or "" if there is a prediction."""

    def interval(self) -> tuple[float, float]:
        """Return the 95 % interval of the error."""
        low, high = np.quantile(self.resampled, [0.025, 0.975])
        return float(low), float(high)


def extrapolate(
    rows: Sequence[int],
    errors: Sequence[Sequence[float]],
    target: int,
    weights: Sequence[float] | None = None,
    groups: Sequence[Hashable | None] | None = None,
) -> Extrapolation:
    """Predict the mean error after ``target`` training rows.

    Args:
        rows: numbers of training rows that were measured.
        errors: the error of each test row, for each number of training rows; means are 0 or more.
        target: number of training rows to predict the error for.
        weights: positive weights of the test rows, or None for equal weights.
        groups: groups of the test rows; the rows of a group are resampled together.
    """
    if len(set(rows)) < MIN_POINTS:
        return Extrapolation(target, reason=f"fewer than {MIN_POINTS} pilots were measured")
    units = {label_unit(group, row) for row, group in enumerate(groups or [None] * len(errors[0]))}
    if len(units) < 2:
        return Extrapolation(target, reason="there is only one test row or group")
    # The logarithm needs errors above 0, so zero incorrect answers count as half of one.
    least = 0.5 / len(errors[0]) if np.isin(errors, (0.0, 1.0)).all() else 0.0
    means_PR = np.stack([np.maximum(average_resamples(e, weights, groups), least) for e in errors])
    if not means_PR[:, 0].min() > 0:
        return Extrapolation(target, reason="a pilot's mean error is 0")
    slopes, predicted = _fit(rows, means_PR, target)
    if slopes[0] >= 0:
        return Extrapolation(target, reason="more training rows did not reduce the errors")
    if (slopes[1:] >= 0).mean() > MAX_UNCLEAR:
        return Extrapolation(target, reason="the pilots differ too little to show a trend")
    return Extrapolation(
        target, float(predicted[0]), tuple(map(float, predicted[1:])), -float(slopes[0])
    )


def average_resamples(
    values: Sequence[float],
    weights: Sequence[float] | None = None,
    groups: Sequence[Hashable | None] | None = None,
) -> Array:
    """Return the mean over the test rows, followed by the mean of each resample: (1+R,).

    All calls for the same rows use the same resamples.
    """
    weights_N = np.ones(len(values)) if weights is None else np.array(weights)
    numbers: dict[Hashable, int] = {}
    unit_N = [
        numbers.setdefault(label_unit(group, row), len(numbers))
        for row, group in enumerate(groups or [None] * len(values))
    ]
    drawn_RN = weights_N * np.vstack([np.ones(len(numbers)), _resample(len(numbers))])[:, unit_N]
    means: Array = drawn_RN @ np.array(values, dtype=np.float64) / drawn_RN.sum(axis=1)
    return means


def _resample(units: int) -> npt.NDArray[np.int64]:
    """Return how often each resample draws each unit (a row or a group): (R, units)."""
    drawn = np.random.default_rng(0).integers(0, units, (RESAMPLES, units))
    places = drawn + units * np.arange(RESAMPLES)[:, None]
    return np.bincount(places.ravel(), minlength=drawn.size).reshape(drawn.shape)


def _fit(rows: Sequence[int], means: Array, target: int) -> tuple[Array, Array]:
    """Fit a line to the logarithms, and return its slope and value at ``target`` per column."""
    x = np.log(np.array(rows, dtype=np.float64))
    y = np.log(np.maximum(means, 1e-12))
    centred = x - x.mean()
    slope: Array = centred @ (y - y.mean(axis=0)) / (centred @ centred)
    return slope, np.exp(y.mean(axis=0) + slope * (np.log(target) - x.mean()))

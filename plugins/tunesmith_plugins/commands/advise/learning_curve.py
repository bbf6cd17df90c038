"""Extrapolate a score to more training rows, by a power law of its errors.

The error after n rows is modeled as ``a * n ** -b`` (Hestness et al. 2017, section 2). The
interval resamples the test rows, the same ones for each number of training rows. It does not
contain the chance of the training's seed. Shapes: P pilots, N test rows, R resamples.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tunesmith_evidence.statistics.differences import label_unit

Array = npt.NDArray[np.float64]
RESAMPLES = 2_000
FEWEST_POINTS = 3
MAX_UNCLEAR = 0.1
"""Share of resamples without improvement above which nothing is extrapolated."""


@dataclass(frozen=True)
class Extrapolation:
    """Errors after a number of training rows, or the reason why they cannot be estimated."""

    rows: int
    """Training rows for which the error is predicted."""
    error: float = float("nan")
    """Predicted mean error, in the unit of the errors; nan if there is a reason."""
    resampled: tuple[float, ...] = ()
    """Errors by resample; :func:`average` has the same test rows."""
    exponent: float = float("nan")
    """Exponent of the power law by which the error falls with rows; nan if there is a reason."""
    reason: str = ""
    """Reason why no error is predicted; empty if one is."""

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
        rows: numbers of training rows.
        errors: for each of them, the error of each test row; their mean is 0 or more.
        target: number of training rows for which the error is predicted.
        weights: of the test rows, above 0; None: all are equal.
        groups: of the test rows; those of one group are drawn together.
    """
    if len(set(rows)) < FEWEST_POINTS:
        return Extrapolation(target, reason=f"fewer than {FEWEST_POINTS} pilots were measured")
    units = {label_unit(group, row) for row, group in enumerate(groups or [None] * len(errors[0]))}
    if len(units) < 2:
        return Extrapolation(target, reason="the test rows are a single row or group")
    # A logarithm needs errors above 0: no wrong answer counts as half of one.
    least = 0.5 / len(errors[0]) if np.isin(errors, (0.0, 1.0)).all() else 0.0
    means_PR = np.stack([np.maximum(average(e, weights, groups), least) for e in errors])
    if not means_PR[:, 0].min() > 0:
        return Extrapolation(target, reason="an error is not above 0")
    slopes, predicted = _fit(rows, means_PR, target)
    if slopes[0] >= 0:
        return Extrapolation(target, reason="more training rows did not reduce the errors")
    if (slopes[1:] >= 0).mean() > MAX_UNCLEAR:
        return Extrapolation(target, reason="the pilots differ too little to show a trend")
    return Extrapolation(
        target, float(predicted[0]), tuple(map(float, predicted[1:])), -float(slopes[0])
    )


def average(
    values: Sequence[float],
    weights: Sequence[float] | None = None,
    groups: Sequence[Hashable | None] | None = None,
) -> Array:
    """Return the mean of values over the test rows, and below it that of each resample: (1+R,).

    The resamples are the same for all values of the same rows.
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
    """Return how often each resample has each unit: a row, or a group of rows."""
    drawn = np.random.default_rng(0).integers(0, units, (RESAMPLES, units))
    places = drawn + units * np.arange(RESAMPLES)[:, None]
    return np.bincount(places.ravel(), minlength=drawn.size).reshape(drawn.shape)


def _fit(rows: Sequence[int], means: Array, target: int) -> tuple[Array, Array]:
    """Fit a line to logarithms; return the slope and the value at ``target`` for each column."""
    x = np.log(np.array(rows, dtype=np.float64))
    y = np.log(np.maximum(means, 1e-12))
    centred = x - x.mean()
    slope: Array = centred @ (y - y.mean(axis=0)) / (centred @ centred)
    return slope, np.exp(y.mean(axis=0) + slope * (np.log(target) - x.mean()))

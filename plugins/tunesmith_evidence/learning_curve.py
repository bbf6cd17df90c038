"""Extrapolate a score to more training rows, by a power law of its errors.

The error after n rows is modelled as ``a * n ** -b`` (Hestness et al. 2017, section 2). The
interval resamples the held-out rows, the same ones for each number of training rows. It does not
contain the chance of the training's seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

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
    """Errors by resample; :func:`resample` has the same held-out rows."""
    exponent: float = float("nan")
    """Exponent of the power law by which the error falls with rows; nan if there is a reason."""
    reason: str = ""
    """Reason why no error is predicted; empty if one is."""

    def interval(self) -> tuple[float, float]:
        """Return the 95 % interval of the error."""
        low, high = np.quantile(self.resampled, [0.025, 0.975])
        return float(low), float(high)


def extrapolate(
    rows: Sequence[int], errors: Sequence[Sequence[float]], target: int, seed: int = 0
) -> Extrapolation:
    """Predict the mean error after ``target`` training rows.

    Args:
        rows: numbers of training rows.
        errors: for each of them, the error of each held-out row; 0 or more.
    """
    if len(set(rows)) < FEWEST_POINTS:
        return Extrapolation(target, reason=f"fewer than {FEWEST_POINTS} probes were measured")
    table = np.array(errors, dtype=np.float64)
    means = _mean(table)
    if not means.min() > 0:
        return Extrapolation(target, reason="an error is not above 0")
    slope, error = _fit(rows, means[:, None], target)
    if slope[0] >= 0:
        return Extrapolation(target, reason="more training rows did not reduce the errors")
    samples = np.stack([_mean(table[:, chosen]) for chosen in resample(table.shape[1], seed)], 1)
    slopes, resampled = _fit(rows, samples, target)
    if (slopes >= 0).mean() > MAX_UNCLEAR:
        return Extrapolation(target, reason="the probes differ too little to show a trend")
    return Extrapolation(target, float(error[0]), tuple(map(float, resampled)), -float(slope[0]))


def resample(count: int, seed: int = 0) -> npt.NDArray[np.int64]:
    """Return the numbers of the held-out rows of each resample."""
    return np.random.default_rng(seed).integers(0, count, (RESAMPLES, count))


def _mean(table: Array) -> Array:
    """Return means by probe; those of wrong/right values a little above 0, even if all are."""
    n = table.shape[1]
    is_binary = bool(np.isin(table, (0.0, 1.0)).all())
    total: Array = table.sum(axis=1)
    means: Array = (total + 0.5) / (n + 1) if is_binary else total / n
    return means


def _fit(rows: Sequence[int], means: Array, target: int) -> tuple[Array, Array]:
    """Fit a line to logarithms; return the slope and the value at ``target`` for each column."""
    x = np.log(np.array(rows, dtype=np.float64))
    y = np.log(np.maximum(means, 1e-12))
    centred = x - x.mean()
    slope: Array = centred @ (y - y.mean(axis=0)) / (centred @ centred)
    return slope, np.exp(y.mean(axis=0) + slope * (np.log(target) - x.mean()))

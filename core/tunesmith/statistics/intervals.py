"""Confidence intervals of a mean."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random

from tunesmith.statistics.distributions import NORMAL, student_quantile
from tunesmith.statistics.sample import (
    Bounds,
    Sample,
    build_sample,
    check_options,
    effective_size,
    is_binary,
    standard_error,
)

_SMALL = 10  # with fewer units, a bootstrap interval is too narrow
_SMALL_LOSSES = 5  # the same limit for losses, because Student's interval misses their long tail
MAX_CELLS = 2_000
"""Maximum number of units to resample, to limit the time; more units are merged into cells."""
Resample = Callable[[list[tuple[float, float]]], Sequence[float]]
"""A function from each unit's weighted deviation and weight to sorted means of resamples."""


@dataclass(frozen=True)
class Interval:
    """The mean ``value`` of ``n`` records, with its interval ``low`` to ``high``."""

    value: float
    low: float
    high: float
    n: int
    units: int = 0
    """Number of independent units among these records; 0 if they were not counted."""


def mean_interval(  # noqa: PLR0913  (all parameters but two are keyword-only)
    values: Sequence[float],
    weights: Sequence[float] | None = None,
    *,
    groups: Sequence[Hashable | None] | None = None,
    confidence: float = 0.95,
    resamples: int = 2_000,
    seed: int = 0,
    bounds: Bounds | None = None,
) -> Interval:
    """Compute the mean of a metric over records, with a confidence interval.

    The value is sum(w * v) / sum(w); with token counts as weights, it is a mean per token. Records
    with weight zero are ignored and not counted. A record whose group is None is its own unit.
    `bounds` are the smallest and largest possible values of the metric; the interval stays within
    them. If all values are 0 or 1, they count as right or wrong, unless the bounds exclude that.

    Raises:
        ValueError: ``values`` is empty, a value is not finite, or another argument is invalid.
    """
    check_options(confidence, resamples)
    sample = build_sample(values, weights, groups)
    counted = values if weights is None else [v for v, w in zip(values, weights, strict=True) if w]
    if is_binary(bounds, counted):
        low, high = _wilson(sample.value, effective_size(sample), confidence)
    else:
        resample = partial(bootstrap_means, resamples=resamples, seed=seed)
        low, high = interval_of_sample(sample, confidence, resample, bounds)
    low, high = min(low, sample.value), max(high, sample.value)
    return Interval(sample.value, low, high, sample.n, sample.units)


def _wilson(share: float, n: float, confidence: float) -> Bounds:
    """Compute the Wilson interval of a share; its width is never zero. `n` may be fractional."""
    z = NORMAL.inv_cdf(1 - (1 - confidence) / 2)
    center = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, center - half), min(1.0, center + half)


def interval_of_sample(
    sample: Sample, confidence: float, resample: Resample, limits: Bounds | None
) -> Bounds:
    """Compute the interval of a mean of arbitrary numbers, clipped to the limits."""
    bounds = limits or (-math.inf, math.inf)
    if sample.units == 1:
        return bounds
    if not any(sample.deviations):
        return _constant(sample, confidence, bounds)
    freedom = max(1, math.floor(sample.effective_units + 1e-9) - 1)
    quantile = student_quantile(1 - (1 - confidence) / 2, freedom)
    is_loss = bounds == (0.0, math.inf) and sample.value > 0
    if freedom + 1 < (_SMALL_LOSSES if is_loss else _SMALL):
        low, high = -quantile * standard_error(sample), quantile * standard_error(sample)
    else:
        tail = NORMAL.cdf(-quantile * math.sqrt((freedom + 1) / freedom))
        low, high = _bootstrap(sample, tail, resample)
    return max(bounds[0], sample.value + low), min(bounds[1], sample.value + high)


def _constant(sample: Sample, confidence: float, bounds: Bounds) -> Bounds:
    """Compute the interval when all units have the same value.

    By Wilson's interval, some share of further records could still be at a bound of the metric.
    Without bounds, nothing is known about further records, and the width is zero.
    """
    unseen = _wilson(0.0, effective_size(sample), confidence)[1]
    below, above = sample.value - bounds[0], bounds[1] - sample.value
    return (
        sample.value - (unseen * below if math.isfinite(below) else 0.0),
        sample.value + (unseen * above if math.isfinite(above) else 0.0),
    )


def _bootstrap(sample: Sample, tail: float, resample: Resample) -> Bounds:
    """Compute the interval by percentile bootstrap over units, relative to the value.

    If the skew is negative, the sample is mirrored first and the result is mirrored back. Swapping
    the two models of a comparison then mirrors the interval exactly.
    """
    largest = max(abs(d) for d in sample.deviations)
    mirrored = math.fsum((d / largest) ** 3 for d in sample.deviations) < 0
    sign = -1.0 if mirrored else 1.0
    units = sorted((sign * d, w) for d, w in zip(sample.deviations, sample.weights, strict=True))
    means = resample(units)
    low, high = _quantile(means, tail), _quantile(means, 1 - tail)
    return (-high, -low) if mirrored else (low, high)


def bootstrap_means(units: list[tuple[float, float]], resamples: int, seed: int) -> list[float]:
    """Return the sorted weighted means of samples with replacement.

    A complex number holds a unit's deviation and weight, so that one sum in C adds both.
    Beyond 2,000 units, units are distributed at random over cells of equal size, and cells are
    resampled. This has the same expectation, estimates the spread to 2 %, and bounds the time.
    """
    cells, rng = [complex(d, w) for d, w in units], Random(seed)
    if len(cells) > MAX_CELLS:
        rng.shuffle(cells)
        cells = [sum(cells[i::MAX_CELLS], 0j) for i in range(MAX_CELLS)]
    samples = (sum(rng.choices(cells, k=len(cells)), 0j) for _ in range(resamples))
    return sorted(sample.real / sample.imag for sample in samples)


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Interpolate linearly between order statistics (type 7, the usual default)."""
    position = min(max(share, 0.0), 1.0) * (len(ordered) - 1)
    index = min(int(position), len(ordered) - 2)
    part = position - index
    return ordered[index] * (1 - part) + ordered[index + 1] * part

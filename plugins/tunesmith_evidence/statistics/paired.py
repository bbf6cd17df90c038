"""Confidence intervals of a paired difference."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from functools import partial

from tunesmith.statistics import Interval
from tunesmith.statistics.distributions import NORMAL
from tunesmith.statistics.intervals import interval_of_sample
from tunesmith.statistics.sample import (
    Bounds,
    check_options,
    effective_size,
)
from tunesmith_evidence.statistics.bisection import bisect
from tunesmith_evidence.statistics.differences import PairedSample, compute_share, pair_values
from tunesmith_evidence.statistics.resampling import bootstrap_means

FEW = 10
"""Units that the models answer differently, below which a bootstrap is too narrow: the interval is
at least as wide as the score interval of differences as large as the bounds allow."""


def paired_difference(  # noqa: PLR0913
    base: Sequence[float],
    tuned: Sequence[float],
    weights: Sequence[float] | None = None,
    *,
    groups: Sequence[Hashable | None] | None = None,
    confidence: float = 0.95,
    resamples: int = 2_000,
    seed: int = 0,
    bounds: Bounds | None = None,
) -> Interval:
    """Average tuned minus base over the same records, with a confidence interval.

    `base[i]` and `tuned[i]` are the same record's values; `bounds` are those of the metric, not
    of the difference. The other parameters are those of `mean_interval`.
    """
    check_options(confidence, resamples)
    paired = pair_values(base, tuned, weights, groups)
    return interval_of_pairs(paired, confidence, resamples, seed, bounds)


def interval_of_pairs(
    paired: PairedSample, confidence: float, resamples: int, seed: int, bounds: Bounds | None
) -> Interval:
    """Average the differences of a paired sample, with a confidence interval."""
    sample = paired.sample
    if paired.is_binary and bounds in (None, (0, 1)):
        share_up = compute_share(paired.differences, paired.weights, 1.0)
        low, high = _tango(share_up, share_up - sample.value, effective_size(sample), confidence)
    else:
        span = bounds[1] - bounds[0] if bounds else math.inf
        resample = partial(bootstrap_means, resamples=resamples, seed=seed)
        low, high = interval_of_sample(sample, confidence, resample, (-span, span))
        if paired.changed < FEW and 0 < span < math.inf:
            # A bootstrap knows only differences that it has seen; further records may have any.
            up, down = (min(1.0, part / span) for part in (paired.gain, paired.loss))
            ends = _tango(up, min(down, 1 - up), effective_size(sample), confidence)
            low, high = min(low, span * ends[0]), max(high, span * ends[1])
    low, high = min(low, sample.value), max(high, sample.value)
    return Interval(sample.value, low, high, sample.n, sample.units)


def _tango(up: float, down: float, n: float, confidence: float) -> Bounds:
    """Compute Tango's score interval of a paired difference of shares; never of zero width.

    `up` is the share of records that only the tuned model got right, `down` the share that only
    the base model got right.
    """
    z = NORMAL.inv_cdf(1 - (1 - confidence) / 2)
    b, c = up * n, max(down, 0.0) * n
    observed = (b - c) / n

    def score(delta: float) -> float:
        half = (2 * n - b + c) * delta - b - c
        root = math.sqrt(max(0.0, half * half + 8 * n * c * delta * (1 - delta)))
        variance = n * ((root - half) / (2 * n) + delta * (1 - delta))
        distance = b - c - n * delta
        if variance <= 0:
            return math.copysign(math.inf, distance) if distance else 0.0
        return distance / math.sqrt(variance)

    low = bisect(lambda delta: score(delta) <= z, -1.0, observed)
    high = bisect(lambda delta: score(delta) < -z, observed, 1.0)
    return low, high

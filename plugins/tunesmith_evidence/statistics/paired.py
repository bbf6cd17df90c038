"""Compute confidence intervals of a paired difference.

Both models answer the same records, so each record gives one difference. The difficulty of a record
affects both models and cancels out, so the interval is much narrower than for two separate
samples::

    record   base  tuned  difference
    easy       1     1        0
    medium     0     1       +1          mean difference +1/3
    hard       0     0        0

The bootstrap resamples *units*, not records. A unit is a record or, where records have a group, the
whole group: for example, the turns of a conversation or the questions about a document. Records of
a group tend to be right or wrong together. Drawing them one by one would treat 100 questions about
five documents as 100 independent observations, and the interval would be far too narrow::

    groups                a1 a2 a3 | b1 b2 | c1 c2 c3
    draw with repetition  b1 b2 | b1 b2 | a1 a2 a3       -> mean difference of these records
    repeat 2,000 times                                   -> the interval's percentiles

Values of right or wrong need no bootstrap: Tango's interval uses the two discordant shares. Groups
are accounted for through the effective number of records.
"""

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

FEW_CHANGED_PAIRS = 10
"""Minimum number of units with a difference for using the bootstrap alone. With fewer units, its
interval is too narrow. It is then widened to the score interval of the largest differences that the
bounds allow."""


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
    """Return the mean of tuned minus base over the same records, with a confidence interval.

    `base[i]` and `tuned[i]` are values of the same record. `bounds` are the bounds of the metric,
    not of the difference. For the other parameters, see `mean_interval`.
    """
    check_options(confidence, resamples)
    paired = pair_values(base, tuned, weights, groups)
    return interval_of_pairs(paired, confidence, resamples, seed, bounds)


def interval_of_pairs(
    paired: PairedSample, confidence: float, resamples: int, seed: int, bounds: Bounds | None
) -> Interval:
    """Return the mean difference of a paired sample, with a confidence interval."""
    sample = paired.sample
    if paired.is_binary and bounds in (None, (0, 1)):
        share_up = compute_share(paired.differences, paired.weights, 1.0)
        low, high = _tango(share_up, share_up - sample.value, effective_size(sample), confidence)
    else:
        span = bounds[1] - bounds[0] if bounds else math.inf
        resample = partial(bootstrap_means, resamples=resamples, seed=seed)
        low, high = interval_of_sample(sample, confidence, resample, (-span, span))
        if paired.changed < FEW_CHANGED_PAIRS and 0 < span < math.inf:
            # A bootstrap only repeats observed differences; further records may have others.
            up, down = (min(1.0, part / span) for part in (paired.gain, paired.loss))
            ends = _tango(up, min(down, 1 - up), effective_size(sample), confidence)
            low, high = min(low, span * ends[0]), max(high, span * ends[1])
    low, high = min(low, sample.value), max(high, sample.value)
    return Interval(sample.value, low, high, sample.n, sample.units)


def _tango(up: float, down: float, n: float, confidence: float) -> Bounds:
    """Compute Tango's score interval of a paired difference of shares, whose width is never zero.

    `up` is the share of records that only the tuned model got right, and `down` the share that only
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

"""Estimate the share of rows that lie outside the training data, from conformal p-values.

The p-value of a row is the rank of its distance among the reference distances, which are measured
between training rows. A row from the same source as the training rows has a p-value of at most L
with probability L. Some of the rows below a level L are therefore false alarms. With a correction
for these, the share outside is (rejected - L) / (1 - L).

The estimate is unbiased if all rows outside have p-values below the level. Otherwise it is too low,
but never too high (Storey, 2002). A low level misses rows outside that resemble training rows. A
high level misses few of these rows, but varies more between samples. Three levels are combined:
0.05 for the lower limit, 0.2 for the estimate and 0.5 for the upper limit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tunesmith.statistics import mean_interval
from tunesmith_data.near_duplicates.features import Bits, Floats, Indices

LEVEL, ESTIMATE_LEVEL, UPPER_LEVEL = 0.05, 0.2, 0.5
MIN_REFERENCE_ROWS = 20
"""Minimum number of reference distances that allows a p-value of at most 0.05."""


@dataclass(frozen=True, slots=True)
class ShareEstimate:
    """A share of all rows, with its 95 % confidence interval."""

    estimate: float
    """The estimated share, from 0 to 1."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""


def find_distance_threshold(reference: Floats, level: float) -> float:
    """Return the distance above which the p-value of a row is at most ``level``."""
    rank = math.floor(level * (len(reference) + 1))
    return float(np.sort(reference)[-rank])


def compute_p_values(distances: Floats, reference: Floats) -> Floats:
    """Return the conformal p-value of each distance."""
    below = np.searchsorted(np.sort(reference), distances)
    result: Floats = (1 + len(reference) - below) / (1 + len(reference))
    return result


@dataclass(frozen=True, slots=True)
class Reference:
    """Distances from training rows to the nearest row that is not a near-duplicate."""

    distances: Floats
    groups: Indices
    """Group labels; two rows that are each other's nearest have equal distances and one group."""


def estimate_share(distances: Floats, covered: Bits, reference: Reference) -> ShareEstimate:
    """Estimate the share of rows that lie outside the training data.

    Args:
        distances: the distance of each row to the nearest training row.
        covered: True for rows that have a near-duplicate in the training rows. These rows are not
            outside, and cannot be false alarms, because the reference excludes near-duplicates too.
        reference: the reference distances.
    """
    low = _estimate(distances, covered, reference, LEVEL).low
    high = _estimate(distances, covered, reference, UPPER_LEVEL).high
    estimate = _estimate(distances, covered, reference, ESTIMATE_LEVEL).estimate
    high = max(high, low)
    return ShareEstimate(min(max(estimate, low), high), low, high)


def _estimate(
    distances: Floats, covered: Bits, reference: Reference, level: float
) -> ShareEstimate:
    """Estimate the share from the rows whose p-value is at most ``level``."""
    limit = find_distance_threshold(reference.distances, level)
    alarms = reference.distances > limit
    rejected = (distances > limit) & ~covered
    rate = (int(alarms.sum()) + 1) / (len(alarms) + 1)
    uncovered = float((~covered).mean())
    share = max(0.0, (float(rejected.mean()) - uncovered * rate) / (1 - rate))
    # Among rows that are not outside, only this share can be false alarms.
    exposed = (uncovered - share) / (1 - share) if share < 1 else 0.0
    accepted = mean_interval((~rejected).tolist(), bounds=(0, 1))
    quiet = mean_interval((~alarms).tolist(), groups=reference.groups.tolist(), bounds=(0, 1))
    ratio = _ratio_limits(
        (accepted.value, accepted.low, accepted.high),
        (1 - exposed * rate, 1 - exposed * (1 - quiet.low), 1 - exposed * (1 - quiet.high)),
    )
    return ShareEstimate(share, max(0.0, 1 - ratio[1]), min(1.0, 1 - ratio[0]))


def _ratio_limits(
    one: tuple[float, float, float], other: tuple[float, float, float]
) -> tuple[float, float]:
    """Return the confidence interval of a ratio, given the values and intervals of its terms.

    Source: Donner and Zou, Statistical Methods in Medical Research 21 (2012) 347, equation 8.
    """
    (a, a_low, a_high), (b, b_low, b_high) = one, other
    low_term = (a * b) ** 2 - a_low * b_high * (2 * a - a_low) * (2 * b - b_high)
    high_term = (a * b) ** 2 - a_high * b_low * (2 * a - a_high) * (2 * b - b_low)
    low = (a * b - math.sqrt(max(0.0, low_term))) / (b_high * (2 * b - b_high))
    high = (a * b + math.sqrt(max(0.0, high_term))) / (b_low * (2 * b - b_low))
    return max(0.0, low), high

"""Estimate the share of rows that lie outside, from conformal p-values.

The p-value of a row is the rank of its distance among the reference distances, those of training
rows to other training rows. Rows from the source of the training rows have a p-value of at most L
with probability L, so some of the rows below a level L are false alarms. Without them, the share
outside is (rejected - L) / (1 - L).

This is unbiased if all rows outside have p-values below the level, and too low otherwise, never too
high (Storey, 2002). A low level misses rows outside that resemble training rows; a high level
misses few of them, but varies more from sample to sample. So three levels are used: the lower limit
is that at 0.05, the estimate that at 0.2, and the upper limit that at 0.5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tunesmith.statistics import mean_interval
from tunesmith_data.near_duplicates.features import Bits, Floats, Indices

LEVEL, ESTIMATE_LEVEL, UPPER_LEVEL = 0.05, 0.2, 0.5
LEAST_REFERENCE = 20
"""Reference distances without which no p-value could be at most 0.05."""


@dataclass(frozen=True, slots=True)
class Share:
    """A share of all rows, and the limits of its 95 % interval."""

    estimate: float
    """The estimated share, from 0 to 1."""
    low: float
    """Lower limit."""
    high: float
    """Upper limit."""


def threshold(reference: Floats, level: float) -> float:
    """Return the distance above which the p-value of a row is at most ``level``."""
    rank = math.floor(level * (len(reference) + 1))
    return float(np.sort(reference)[-rank])


def p_values(distances: Floats, reference: Floats) -> Floats:
    """Return the conformal p-value of each distance."""
    below = np.searchsorted(np.sort(reference), distances)
    result: Floats = (1 + len(reference) - below) / (1 + len(reference))
    return result


@dataclass(frozen=True, slots=True)
class Reference:
    """Distances of training rows to the nearest one that is no near duplicate."""

    distances: Floats
    groups: Indices
    """Equal for two rows that are the nearest of each other: their distances are the same."""


def estimate_share(distances: Floats, covered: Bits, reference: Reference) -> Share:
    """Estimate the share of rows that are outside.

    Args:
        distances: The distance of each row to the nearest training row.
        covered: Rows that have a near duplicate among the training rows. They are not outside,
            and cause no false alarms, because the reference has no near duplicates either.
        reference: The distances to compare with.
    """
    low = _estimate(distances, covered, reference, LEVEL).low
    high = _estimate(distances, covered, reference, UPPER_LEVEL).high
    estimate = _estimate(distances, covered, reference, ESTIMATE_LEVEL).estimate
    high = max(high, low)
    return Share(min(max(estimate, low), high), low, high)


def _estimate(distances: Floats, covered: Bits, reference: Reference, level: float) -> Share:
    """Estimate the share with the rows whose p-value is at most ``level``."""
    limit = threshold(reference.distances, level)
    alarms = reference.distances > limit
    rejected = (distances > limit) & ~covered
    rate = (int(alarms.sum()) + 1) / (len(alarms) + 1)
    uncovered = float((~covered).mean())
    share = max(0.0, (float(rejected.mean()) - uncovered * rate) / (1 - rate))
    # Of the rows that are not outside, only this part can cause false alarms.
    exposed = (uncovered - share) / (1 - share) if share < 1 else 0.0
    accepted = mean_interval((~rejected).tolist(), bounds=(0, 1))
    quiet = mean_interval((~alarms).tolist(), groups=reference.groups.tolist(), bounds=(0, 1))
    ratio = _ratio_limits(
        (accepted.value, accepted.low, accepted.high),
        (1 - exposed * rate, 1 - exposed * (1 - quiet.low), 1 - exposed * (1 - quiet.high)),
    )
    return Share(share, max(0.0, 1 - ratio[1]), min(1.0, 1 - ratio[0]))


def _ratio_limits(
    one: tuple[float, float, float], other: tuple[float, float, float]
) -> tuple[float, float]:
    """Return the limits of a ratio from the value and the limits of both its terms.

    Donner and Zou, Statistical Methods in Medical Research 21 (2012) 347, equation 8.
    """
    (a, a_low, a_high), (b, b_low, b_high) = one, other
    low_term = (a * b) ** 2 - a_low * b_high * (2 * a - a_low) * (2 * b - b_high)
    high_term = (a * b) ** 2 - a_high * b_low * (2 * a - a_high) * (2 * b - b_low)
    low = (a * b - math.sqrt(max(0.0, low_term))) / (b_high * (2 * b - b_high))
    high = (a * b + math.sqrt(max(0.0, high_term))) / (b_low * (2 * b - b_low))
    return max(0.0, low), high

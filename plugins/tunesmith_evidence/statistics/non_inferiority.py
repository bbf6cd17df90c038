"""Test whether the side effects of fine-tuning are below a margin (non-inferiority)."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, TypeAlias

from tunesmith.events import JSON
from tunesmith.statistics import Interval, mean_interval
from tunesmith.statistics.distributions import NORMAL
from tunesmith.statistics.sample import Bounds, build_sample, effective_size, standard_error
from tunesmith_evidence.number_text import format_interval, format_rate
from tunesmith_evidence.statistics.differences import paired_differences
from tunesmith_evidence.statistics.paired import paired_difference
from tunesmith_evidence.statistics.power import rows_needed

__all__ = [
    "MIN_UNITS",
    "NonInferiority",
    "compare_shares",
    "compare_with_margin",
    "difference_of_shares",
]

CONFIDENCE = 0.95
"""Confidence of each one-sided bound; the interval between both bounds has a confidence of 90 %."""
POWER = 0.8
TWO_SIDED = 2 * CONFIDENCE - 1
Groups: TypeAlias = "tuple[Sequence[Hashable | None] | None, Sequence[Hashable | None] | None]"
DETECTABLE_STANDARD_ERRORS = NORMAL.inv_cdf(CONFIDENCE) + NORMAL.inv_cdf(POWER)
MIN_UNITS = 10
"""With fewer rows or groups, the bounds are too narrow to be trusted."""


@dataclass(frozen=True, kw_only=True)
class NonInferiority:
    """A measured harm in the metric's unit, with one-sided 95 % bounds and the accepted margin."""

    value: float
    """The measured harm; positive means that the tuned model is worse."""
    low: float
    """Lower bound of the harm."""
    high: float
    """Upper bound of the harm."""
    margin: float
    """The largest acceptable harm."""
    n: int
    """Number of records."""
    outcome: Literal["harmed", "not harmed", "unclear"]
    """``harmed``: the lower bound is above the margin. ``not harmed``: the upper bound is below the
    margin."""
    rows_needed: int | None
    """Number of rows that would be enough (80 % power) for the measured harm; None if unknown."""
    resolved: float | None
    """Smallest margin where zero harm would be accepted with 80 % power, or None if unknown."""

    @property
    def bounds(self) -> str:
        """Both one-sided 95 % bounds and the margin, for a sentence."""
        bounds = format_interval(self.low, self.high, signed=True)
        return f"one-sided 95 % bounds {bounds}, margin {format_rate(self.margin)}"

    def describe(self, harmed: str, not_harmed: str, figures: str, rows: str) -> str:
        """Return a sentence with the outcome and its figures.

        Args:
            harmed: text for the outcome ``harmed``.
            not_harmed: text for the outcome ``not harmed``.
            figures: the figures that the outcome is based on.
            rows: plural noun for what was measured, such as ``texts``.
        """
        words = {"harmed": harmed, "not harmed": not_harmed, "unclear": f"not enough {rows}"}
        more = ""
        if self.outcome == "unclear" and self.rows_needed and self.rows_needed > self.n:
            more = f"; about {self.rows_needed:,} {rows} would be enough"
        return f"{words[self.outcome]}: {figures}{more}"

    def to_json(self) -> JSON:
        """Return the result for a measurement's details. ``[gate]`` reads its key ``holds``."""
        return {**asdict(self), "holds": self.outcome == "not harmed"}


def compare_with_margin(
    base: Sequence[float],
    tuned: Sequence[float],
    margin: float,
    *,
    weights: Sequence[float] | None = None,
    groups: Sequence[Hashable | None] | None = None,
    bounds: Bounds | None = None,
) -> NonInferiority:
    """Test whether tuned minus base, paired by row, is below or above a margin; higher is worse.

    Each of the two conclusions is wrong in at most 5 % of cases. ``bounds`` are the metric's
    bounds; if they are None and all values are 0 or 1, these count as wrong and right.
    """
    interval = paired_difference(
        base, tuned, weights, groups=groups, confidence=TWO_SIDED, bounds=bounds
    )
    sample = build_sample(paired_differences(base, tuned), weights, groups)
    error = standard_error(sample) if sample.units > 1 else math.inf
    return decide_non_inferiority(interval, margin, units=sample.units, error=error)


def compare_shares(
    treated: Sequence[float],
    control: Sequence[float],
    margin: float,
    *,
    groups: Groups = (None, None),
) -> NonInferiority:
    """Test whether the share of ones in ``treated`` exceeds that in ``control`` by a margin.

    The two samples are independent; see :func:`difference_of_shares`.
    """
    samples = [
        build_sample(values, None, of_rows)
        for values, of_rows in zip((treated, control), groups, strict=True)
    ]
    shares = ((sample.value, effective_size(sample)) for sample in samples)
    error = math.hypot(*(math.sqrt(share * (1 - share) / size) for share, size in shares))
    interval = difference_of_shares(treated, control, groups=groups, confidence=TWO_SIDED)
    return decide_non_inferiority(
        interval, margin, units=min(s.units for s in samples), error=error
    )


def difference_of_shares(
    treated: Sequence[float],
    control: Sequence[float],
    *,
    groups: Groups = (None, None),
    confidence: float = CONFIDENCE,
) -> Interval:
    """Return the share of ones in ``treated`` minus the share in ``control``.

    The samples are independent. Newcombe's interval combines the Wilson intervals of both shares.

    Args:
        treated: values of 0 or 1.
        control: values of 0 or 1.
        groups: the groups of the treated rows and of the control rows.
        confidence: level of the interval.

    Source: Newcombe, Statistics in Medicine 17 (1998), method 10.
    """
    a, b = (
        mean_interval(values, groups=of_rows, confidence=confidence)
        for values, of_rows in zip((treated, control), groups, strict=True)
    )
    difference = a.value - b.value
    low = difference - math.hypot(a.value - a.low, b.high - b.value)
    high = difference + math.hypot(a.high - a.value, b.value - b.low)
    return Interval(difference, low, high, a.n + b.n, a.units + b.units)


def decide_non_inferiority(
    interval: Interval, margin: float, *, units: int, error: float
) -> NonInferiority:
    """Determine the outcome from an interval with one-sided 95 % bounds.

    Args:
        interval: the measured harm.
        margin: the largest acceptable harm.
        units: number of independent rows or groups in the smaller sample.
        error: standard error of the harm.
    """
    outcome: Literal["harmed", "not harmed", "unclear"] = "unclear"
    if units >= MIN_UNITS and interval.high < margin:
        outcome = "not harmed"
    elif units >= MIN_UNITS and interval.low > margin:
        outcome = "harmed"
    distance = abs(margin - interval.value)
    needed = None
    if math.isfinite(error) and distance > 0:
        found = rows_needed(interval.n, error, distance, confidence=TWO_SIDED, power=POWER)
        if error == 0:  # no variance: the width of a score interval is proportional to 1 / rows
            found = math.ceil(interval.n * (interval.high - interval.value) / distance)
        needed = max(found, MIN_UNITS)
    return NonInferiority(
        value=interval.value,
        low=interval.low,
        high=interval.high,
        margin=margin,
        n=interval.n,
        outcome=outcome,
        rows_needed=needed,
        resolved=DETECTABLE_STANDARD_ERRORS * error if math.isfinite(error) else None,
    )

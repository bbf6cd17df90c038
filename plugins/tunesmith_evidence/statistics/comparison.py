"""Compare two models on the same records: intervals, p-value and outcome."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

from tunesmith.statistics import Interval
from tunesmith.statistics.sample import (
    Bounds,
    build_sample,
    effective_size,
    is_binary,
    standard_error,
)
from tunesmith_evidence.statistics.differences import compute_share, paired_differences
from tunesmith_evidence.statistics.paired import paired_difference
from tunesmith_evidence.statistics.power import minimum_detectable
from tunesmith_evidence.statistics.tests import paired_p_value

ComparisonOutcome = Literal["better", "worse", "unclear"]


@dataclass(frozen=True)
class Comparison:
    """The comparison of a tuned with a base model; differences are always tuned minus base.

    `outcome` is decided by the paired `difference`. `detectable` is the smallest difference that
    this many records could show with 80 % power. An "unclear" below it means that there are too few
    held-out records, not that there is no difference.
    """

    difference: Interval
    """Tuned minus base, in the unit of the values."""
    p_value: float
    """Of the hypothesis that there is no difference."""
    outcome: ComparisonOutcome
    detectable: float
    """In the unit of the values."""


def compare(  # noqa: PLR0913
    base_values: Sequence[float],
    tuned_values: Sequence[float],
    higher_is_better: bool,
    *,
    weights: Sequence[float] | None = None,
    groups: Sequence[Hashable | None] | None = None,
    confidence: float = 0.95,
    resamples: int = 2_000,
    seed: int = 0,
    bounds: Bounds | None = None,
) -> Comparison:
    """Compare a tuned with a base model on the same records.

    An outcome other than "unclear" needs an interval that excludes zero, and a p-value below
    1 - confidence.
    """
    difference = paired_difference(
        base_values, tuned_values, weights, groups=groups, confidence=confidence,
        resamples=resamples, seed=seed, bounds=bounds,
    )  # fmt: skip
    p_value = paired_p_value(base_values, tuned_values, weights, groups=groups, seed=seed)
    outcome: ComparisonOutcome = "unclear"
    if (difference.low > 0 or difference.high < 0) and p_value < 1 - confidence:
        outcome = "better" if (difference.value > 0) == higher_is_better else "worse"
    detectable = _detectable(base_values, tuned_values, weights, groups, confidence)
    return Comparison(difference, p_value, outcome, detectable)


def _detectable(
    base: Sequence[float],
    tuned: Sequence[float],
    weights: Sequence[float] | None,
    groups: Sequence[Hashable | None] | None,
    confidence: float,
) -> float:
    """Compute `minimum_detectable` for the spread of the differences in this comparison."""
    differences = paired_differences(base, tuned)
    sample = build_sample(differences, weights, groups)
    if is_binary(None, base, tuned):
        discordant = 1 - compute_share(differences, weights, 0.0)
        size = max(1, math.floor(effective_size(sample) + 1e-9))
        return minimum_detectable(size, discordant=discordant, confidence=confidence)
    spread = standard_error(sample) * math.sqrt(sample.units) if sample.units > 1 else math.inf
    return minimum_detectable(sample.units, spread=spread, confidence=confidence)

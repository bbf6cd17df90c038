"""Compare two models on the same records: intervals, p-value and outcome."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

from tunesmith.statistics import Interval
from tunesmith.statistics.sample import Bounds, check_options, effective_size, standard_error
from tunesmith_evidence.statistics.differences import PairedSample, compute_share, pair_values
from tunesmith_evidence.statistics.paired import interval_of_pairs
from tunesmith_evidence.statistics.power import minimum_detectable_difference
from tunesmith_evidence.statistics.tests import SIGN_PATTERNS, p_value_of_pairs

ComparisonOutcome = Literal["better", "worse", "unclear"]


@dataclass(frozen=True)
class Comparison:
    """The paired comparison of a tuned model with its base model.

    An "unclear" outcome with a difference below `detectable` means that there are too few test
    records. It does not mean that the models are equal.
    """

    difference: Interval
    """The difference, tuned minus base, in the unit of the values."""
    p_value: float
    """p-value of the hypothesis that both models are equal."""
    outcome: ComparisonOutcome
    detectable: float
    """Smallest difference that these records detect with 80 % power, in the unit of the values."""


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
    """Compare a tuned model with a base model on the same records.

    An outcome other than "unclear" requires both an interval that excludes zero and a p-value below
    1 - confidence.
    """
    check_options(confidence, resamples)
    paired = pair_values(base_values, tuned_values, weights, groups)
    difference = interval_of_pairs(paired, confidence, resamples, seed, bounds)
    p_value = p_value_of_pairs(paired, SIGN_PATTERNS, seed)
    outcome: ComparisonOutcome = "unclear"
    if (difference.low > 0 or difference.high < 0) and p_value < 1 - confidence:
        outcome = "better" if (difference.value > 0) == higher_is_better else "worse"
    return Comparison(difference, p_value, outcome, _detectable(paired, confidence, bounds))


def _detectable(paired: PairedSample, confidence: float, bounds: Bounds | None) -> float:
    """Compute `minimum_detectable_difference` for the spread of the differences in this comparison.

    If all differences are equal, the spread is unknown, and the largest differences that the bounds
    allow are assumed instead.
    """
    sample = paired.sample
    if paired.is_binary:
        discordant = 1 - compute_share(paired.differences, paired.weights, 0.0)
        size = max(1, math.floor(effective_size(sample) + 1e-9))
        return minimum_detectable_difference(size, discordant=discordant, confidence=confidence)
    if sample.units > 1 and not any(sample.deviations):
        size = max(1, math.floor(effective_size(sample) + 1e-9))
        span = bounds[1] - bounds[0] if bounds else math.inf
        return span * minimum_detectable_difference(size, confidence=confidence)
    spread = standard_error(sample) * math.sqrt(sample.units) if sample.units > 1 else math.inf
    return minimum_detectable_difference(sample.units, spread=spread, confidence=confidence)

"""Check values, weights and groups, and reduce them to independent units."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from tunesmith.statistics.distributions import NORMAL, student_quantile

Bounds = tuple[float, float]
PRIOR_GROUPS = 0.1
"""Weight, in groups, of the largest possible design effect in the average with the estimate.
Without it, 95 % intervals of shares near 1 cover only 90 %, for 40 to 100 groups of very different
sizes."""


@dataclass(frozen=True)
class Sample:
    """Checked values, reduced to the weighted deviation and the weight of each unit."""

    value: float
    n: int
    deviations: tuple[float, ...]  # per unit: sum of w * (v - value)
    weights: tuple[float, ...]  # per unit: sum of w
    effective_records: float  # Kish's effective sample size over records: (sum w)^2 / sum w^2
    variance: float  # weighted variance of single values around the mean
    is_simple: bool  # every record is its own unit, and all have the same weight

    @property
    def units(self) -> int:
        return len(self.weights)

    @property
    def effective_units(self) -> float:
        """Kish's effective sample size: the equivalent number of equally weighted units."""
        return math.fsum(self.weights) ** 2 / math.fsum(w * w for w in self.weights)


def check_options(confidence: float, resamples: int) -> None:
    """Raise ValueError if an option of an interval is out of range."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: must be in (0, 1), got {confidence}")
    if resamples < 100:
        raise ValueError(f"resamples: must be at least 100, got {resamples}")


def check_finite(name: str, numbers: Sequence[float]) -> None:
    """Raise ValueError, with the index, for the first number that is not finite."""
    if not all(map(math.isfinite, numbers)):
        index, number = next(each for each in enumerate(numbers) if not math.isfinite(each[1]))
        raise ValueError(f"{name}[{index}]: must be a finite number, got {number}")


def check_length(name: str, given: int, expected: int) -> None:
    """Raise ValueError unless a list has one entry per value."""
    if given != expected:
        raise ValueError(f"{name}: must have one entry per value ({expected}), got {given}")


def is_binary(bounds: Bounds | None, *values: Sequence[float]) -> bool:
    """Return True if all values are 0 or 1, and the metric's bounds are 0 and 1, or unknown."""
    return bounds in (None, (0, 1)) and all(v in (0, 1) for part in values for v in part)


def build_sample(
    values: Sequence[float],
    weights: Sequence[float] | None,
    groups: Sequence[Hashable | None] | None,
) -> Sample:
    """Check values, weights and groups, and reduce them to independent units.

    Raises:
        ValueError: ``values`` is empty, a value is not finite, or a weight or group is invalid.
    """
    if not values:
        raise ValueError("values: at least one is needed, got none")
    check_finite("values", values)
    if weights is None:
        weights = [1.0] * len(values)
    check_length("weights", len(weights), len(values))
    check_finite("weights", weights)
    for index, weight in enumerate(weights):
        if weight < 0:
            raise ValueError(f"weights[{index}]: must not be negative, got {weight}")
    if groups is not None:
        check_length("groups", len(groups), len(values))
    used = [i for i, w in enumerate(weights) if w > 0]
    if not used:
        raise ValueError("weights: at least one must be above zero, got only zeros")
    kept = [values[i] for i in used]
    heavy = [weights[i] for i in used]
    labels: list[Hashable | None] = [None if groups is None else groups[i] for i in used]
    return _reduce(kept, heavy, labels)


def _reduce(values: list[float], weights: list[float], labels: list[Hashable | None]) -> Sample:
    total = math.fsum(weights)
    value = math.fsum(w * v for w, v in zip(weights, values, strict=True)) / total
    value = min(max(value, min(values)), max(values))  # rounding must not leave the data's range
    records = [(w * (v - value), w) for v, w in zip(values, weights, strict=True)]
    groups: dict[Hashable, list[tuple[float, float]]] = {}
    for label, record in zip(labels, records, strict=True):
        if label is not None:
            groups.setdefault(label, []).append(record)
    units = [record for label, record in zip(labels, records, strict=True) if label is None]
    units += [(math.fsum(d for d, _ in g), math.fsum(w for _, w in g)) for g in groups.values()]
    units.sort()
    variance = math.fsum(w * (v - value) ** 2 for w, v in zip(weights, values, strict=True)) / total
    is_simple = len(units) == len(values) and min(weights) == max(weights)
    effective_records = (
        float(len(values)) if is_simple else total**2 / math.fsum(w * w for w in weights)
    )
    deviations_, masses_ = zip(*units, strict=True)
    return Sample(value, len(values), deviations_, masses_, effective_records, variance, is_simple)


def standard_error(sample: Sample) -> float:
    """Compute the linearized standard error of the weighted mean over at least two units."""
    m = sample.units
    squares = math.fsum(d * d for d in sample.deviations)
    return math.sqrt(m / (m - 1) * squares) / math.fsum(sample.weights)


def effective_size(sample: Sample) -> float:
    """Compute Korn and Graubard's effective sample size, in independent equally weighted records.

    This is Kish's effective size divided by the design effect: the variance of the mean relative to
    the variance with independent records.

    With few groups, the estimate of the design effect is poor, in particular if only a few of them
    differ from the rest. The estimate is therefore averaged with the largest possible design
    effect, that of groups of identical records, which counts as a tenth of a group. If the variance
    is zero, the largest possible design effect is used.

    The size is also reduced so that an interval with a normal quantile is as wide as with
    Student's, with Satterthwaite's degrees of freedom for the sizes of the groups.
    """
    if sample.is_simple:
        return float(sample.n)
    largest = max(sample.effective_records / sample.effective_units, 1.0)
    if sample.units == 1 or sample.variance == 0:
        return sample.effective_records / largest
    most = max(map(abs, sample.deviations)) or 1.0
    squares = [(d / most) ** 2 for d in sample.deviations]
    informative = math.fsum(squares) ** 2 / (math.fsum(s * s for s in squares) or 1.0)
    measured = standard_error(sample) ** 2 * sample.effective_records / sample.variance
    effect = (informative * max(measured, 1.0) + PRIOR_GROUPS * largest) / (
        informative + PRIOR_GROUPS
    )
    correlation = min((effect - 1) / (largest - 1), 1.0) if largest > 1 else 0.0
    record = math.fsum(sample.weights) / sample.effective_records
    variances = [w * (record + (w - record) * correlation) for w in sample.weights]
    units = math.fsum(variances) ** 2 / math.fsum(v * v for v in variances)
    freedom = max(1, math.floor(units * (sample.units - 1) / sample.units + 1e-9))
    few_units = (NORMAL.inv_cdf(0.975) / student_quantile(0.975, freedom)) ** 2
    return max(sample.effective_records / effect * few_units, 1.0)

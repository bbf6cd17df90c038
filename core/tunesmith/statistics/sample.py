"""Check the values of a caller and reduce them to independent units."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from tunesmith.statistics.distributions import NORMAL, student_quantile

Bounds = tuple[float, float]


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
        """Kish's effective sample size over units: the equal number of equally weighted units."""
        return math.fsum(self.weights) ** 2 / math.fsum(w * w for w in self.weights)


def check_options(confidence: float, resamples: int) -> None:
    """Raise ValueError if an option of an interval is out of range."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: must be in (0, 1), got {confidence}")
    if resamples < 100:
        raise ValueError(f"resamples: must be at least 100, got {resamples}")


def check_finite(name: str, numbers: Sequence[float]) -> None:
    """Raise ValueError with the index of the first number that is not finite."""
    for index, number in enumerate(numbers):
        if not math.isfinite(number):
            raise ValueError(f"{name}[{index}]: must be a finite number, got {number}")


def check_length(name: str, given: int, expected: int) -> None:
    """Raise ValueError if there is not one entry per value."""
    if given != expected:
        raise ValueError(f"{name}: must have one entry per value ({expected}), got {given}")


def is_binary(bounds: Bounds | None, *values: Sequence[float]) -> bool:
    """Return True if all values are 0 or 1, and the bounds of the metric allow no others."""
    return bounds in (None, (0, 1)) and all(v in (0, 1) for part in values for v in part)


def build_sample(
    values: Sequence[float],
    weights: Sequence[float] | None,
    groups: Sequence[Hashable | None] | None,
) -> Sample:
    """Check values, weights and groups, and reduce them to independent units.

    Raises:
        ValueError: no values, a value that is not finite, weights or groups that do not fit.
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
    labels: list[Hashable | None] = [None] * len(used) if groups is None else [
        groups[i] for i in used
    ]  # fmt: skip
    return _reduce(kept, heavy, labels)


def _reduce(values: list[float], weights: list[float], labels: list[Hashable | None]) -> Sample:
    total = math.fsum(weights)
    value = math.fsum(w * v for w, v in zip(weights, values, strict=True)) / total
    value = min(max(value, min(values)), max(values))  # rounding must not leave the data's range
    # A group's key is its label in a tuple, a single record's key its index: they never collide.
    keys: list[Hashable] = [i if g is None else (g,) for i, g in enumerate(labels)]
    parts: dict[Hashable, tuple[list[float], list[float]]] = {}
    for key, v, w in zip(keys, values, weights, strict=True):
        deviations, masses = parts.setdefault(key, ([], []))
        deviations.append(w * (v - value))
        masses.append(w)
    units = sorted((math.fsum(d), math.fsum(w)) for d, w in parts.values())
    variance = math.fsum(w * (v - value) ** 2 for w, v in zip(weights, values, strict=True)) / total
    is_simple = len(units) == len(values) and min(weights) == max(weights)
    effective_records = (
        float(len(values)) if is_simple else total**2 / math.fsum(w * w for w in weights)
    )
    deviations_, masses_ = zip(*units, strict=True)
    return Sample(value, len(values), deviations_, masses_, effective_records, variance, is_simple)


def standard_error(sample: Sample) -> float:
    """Compute the linearised standard error of the weighted mean over units (at least two)."""
    m = sample.units
    squares = math.fsum(d * d for d in sample.deviations)
    return math.sqrt(m / (m - 1) * squares) / math.fsum(sample.weights)


def effective_size(sample: Sample) -> float:
    """Compute the effective sample size of Korn and Graubard: independent records of equal weight.

    It is the variance of single values over the variance that weights and groups lead to, and
    never above Kish's effective size. Where the data show no variance at all, it is the smaller
    of Kish's sizes over units and records, which is the conservative choice.
    """
    if sample.is_simple:
        return float(sample.n)
    smallest = min(sample.effective_units, sample.effective_records)
    if sample.units == 1 or sample.variance == 0:
        return smallest
    error = standard_error(sample)
    raw = sample.variance / error**2 if error > 0 else math.inf
    few_units = (NORMAL.inv_cdf(0.975) / student_quantile(0.975, sample.units - 1)) ** 2
    return max(min(raw, sample.effective_records) * few_units, 1.0)

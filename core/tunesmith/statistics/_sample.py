"""Check what a caller gave and reduce it to independent units."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from tunesmith.statistics._distributions import NORMAL, student_quantile

Bounds = tuple[float, float]


@dataclass(frozen=True)
class Sample:
    """Checked values reduced to independent units: their weighted deviation, and their weight."""

    value: float
    n: int
    deviations: tuple[float, ...]  # per unit: sum of w * (v - value)
    weights: tuple[float, ...]  # per unit: sum of w
    kish: float  # (sum w)^2 / sum w^2 over records: how many equally weighted records they equal
    variance: float  # of single values around the mean, weighted
    plain: bool  # every record is a unit of its own with the same weight

    @property
    def units(self) -> int:
        return len(self.weights)

    @property
    def unit_kish(self) -> float:
        """How many equally weighted units these units are worth."""
        return math.fsum(self.weights) ** 2 / math.fsum(w * w for w in self.weights)


def check_options(confidence: float, resamples: int) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: must be in (0, 1), got {confidence}")
    if resamples < 100:
        raise ValueError(f"resamples: must be at least 100, got {resamples}")


def _check_finite(name: str, numbers: Sequence[float]) -> None:
    for index, number in enumerate(numbers):
        if not math.isfinite(number):
            raise ValueError(f"{name}[{index}]: must be a finite number, got {number}")


def _check_length(name: str, given: int, expected: int) -> None:
    if given != expected:
        raise ValueError(f"{name}: must have one entry per value ({expected}), got {given}")


def differences_of(base: Sequence[float], tuned: Sequence[float]) -> list[float]:
    _check_length("tuned", len(tuned), len(base))
    _check_finite("base", base)
    _check_finite("tuned", tuned)
    return [t - b for b, t in zip(base, tuned, strict=True)]


def is_binary(bounds: Bounds | None, *values: Sequence[float]) -> bool:
    return bounds in (None, (0, 1)) and all(v in (0, 1) for part in values for v in part)


def share_of(values: Sequence[float], weights: Sequence[float] | None, wanted: float) -> float:
    """Weighted share of the values that equal `wanted`."""
    if weights is None:
        return sum(1 for v in values if v == wanted) / len(values)
    hits = math.fsum(w for v, w in zip(values, weights, strict=True) if v == wanted)
    return hits / math.fsum(weights)


def sample_of(
    values: Sequence[float],
    weights: Sequence[float] | None,
    groups: Sequence[Hashable | None] | None,
) -> Sample:
    """Check what the caller gave, and reduce it to independent units."""
    if not values:
        raise ValueError("values: at least one is needed, got none")
    _check_finite("values", values)
    if weights is None:
        weights = [1.0] * len(values)
    _check_length("weights", len(weights), len(values))
    _check_finite("weights", weights)
    for index, weight in enumerate(weights):
        if weight < 0:
            raise ValueError(f"weights[{index}]: must not be negative, got {weight}")
    if groups is not None:
        _check_length("groups", len(groups), len(values))
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
    # A group is keyed by its label in a tuple, a record on its own by its index: never the same.
    keys: list[Hashable] = [i if g is None else (g,) for i, g in enumerate(labels)]
    parts: dict[Hashable, tuple[list[float], list[float]]] = {}
    for key, v, w in zip(keys, values, weights, strict=True):
        deviations, masses = parts.setdefault(key, ([], []))
        deviations.append(w * (v - value))
        masses.append(w)
    units = sorted((math.fsum(d), math.fsum(w)) for d, w in parts.values())
    variance = math.fsum(w * (v - value) ** 2 for w, v in zip(weights, values, strict=True)) / total
    plain = len(units) == len(values) and min(weights) == max(weights)
    kish = float(len(values)) if plain else total**2 / math.fsum(w * w for w in weights)
    deviations_, masses_ = zip(*units, strict=True)
    return Sample(value, len(values), deviations_, masses_, kish, variance, plain)


def standard_error(sample: Sample) -> float:
    """Linearised standard error of the weighted mean over units (at least two)."""
    m = sample.units
    squares = math.fsum(d * d for d in sample.deviations)
    return math.sqrt(m / (m - 1) * squares) / math.fsum(sample.weights)


def effective_size(sample: Sample) -> float:
    """How many independent, equally weighted records this sample is worth (Korn and Graubard).

    Plain variance over the variance that weights and groups really give, never above Kish's
    count. Where the data show no variance at all, the units decide: the careful choice.
    """
    if sample.plain:
        return float(sample.n)
    least = min(sample.unit_kish, sample.kish)
    if sample.units == 1 or sample.variance == 0:
        return least
    error = standard_error(sample)
    raw = sample.variance / error**2 if error > 0 else math.inf
    few_units = (NORMAL.inv_cdf(0.975) / student_quantile(0.975, sample.units - 1)) ** 2
    return max(min(raw, sample.kish) * few_units, 1.0)

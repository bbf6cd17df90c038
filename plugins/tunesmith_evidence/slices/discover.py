"""Find weak slices: discover them on one half of the rows and confirm them on the other.

The worst of many slices always looks bad, if only by chance. The rows are therefore split at
random, keeping groups together. The first half is used to select the worst slices. Only these are
tested on the second half, with Holm's correction, and only the second half provides the reported
scores. If no slice is weak, at most 5 % of runs report one.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

from tunesmith_evidence.slices.candidates import Slice, find_candidates
from tunesmith_evidence.slices.rows import ScoredRow
from tunesmith_evidence.statistics import adjust_p_values

__all__ = ["WeakSlice", "find_weak_slices", "split_in_halves"]

ALPHA = 0.05
MAX_PROMISING_P_VALUE = 0.1
"""Maximum p-value on the first half for a slice to be tested on the second half."""
MAX_TESTED = 3
MAX_OVERLAP = 0.5
"""Of slices that overlap by more than this (Jaccard similarity), only the clearest is tested."""
MIN_UNITS = 3
"""Minimum number of rows or groups in a half for a test."""


@dataclass(frozen=True)
class WeakSlice:
    """A slice that was tested on the second half of the rows."""

    slice: Slice
    value: float
    """Mean score of the slice on the second half."""
    others: float
    """Mean score of the other rows on the second half."""
    n: int
    """Number of the slice's rows in the second half."""
    p_value: float
    """Holm-adjusted p-value of the hypothesis that the slice is not worse."""
    units: int
    """Number of independent units among the ``n`` rows: groups, and rows without a group."""

    @property
    def is_confirmed(self) -> bool:
        """True if the slice is significantly worse than the other rows."""
        return self.p_value < ALPHA


def find_weak_slices(
    rows: Sequence[ScoredRow],
    higher_is_better: bool,
    *,
    candidates: Sequence[Slice] | None = None,
    seed: int = 0,
) -> list[WeakSlice]:
    """Return the slices that were tested on the second half, the clearest first.

    Args:
        rows: the scored test rows.
        higher_is_better: direction of the metric.
        candidates: the slices to choose from; None: use :func:`find_candidates`.
        seed: seed of the split into halves.
    """
    chosen = find_candidates(rows) if candidates is None else candidates
    first, second = split_in_halves(rows, seed)
    sign = 1.0 if higher_is_better else -1.0
    scored = [
        (p, c)
        for c in chosen
        if (p := compute_weakness(rows, first, c, sign)) <= MAX_PROMISING_P_VALUE
    ]
    scored.sort(key=lambda pair: (pair[0], pair[1].name))
    tested: list[Slice] = []
    for _, candidate in scored:
        if len(tested) < MAX_TESTED and all(
            compute_overlap(candidate, t) <= MAX_OVERLAP for t in tested
        ):
            tested.append(candidate)
    p_values = adjust_p_values([compute_weakness(rows, second, c, sign) for c in tested])
    found = [_describe(rows, second, c, p) for c, p in zip(tested, p_values, strict=True)]
    return sorted(found, key=lambda weak: weak.p_value)


def split_in_halves(rows: Sequence[ScoredRow], seed: int = 0) -> tuple[list[int], list[int]]:
    """Split rows into two halves, keeping groups together, and return the indices of both.

    A row's content determines its half, so the row stays there when others are added or removed.
    Otherwise, rows that guided the collection of training data could later be used to judge the
    improvement.
    """
    halves: tuple[list[int], list[int]] = ([], [])
    for position, row in enumerate(rows):
        content = ("row", row.prompt or row.source, row.expected)
        unit = content if row.group is None else ("group", row.group)
        digest = hashlib.blake2b(f"{seed}/slices/{unit!r}".encode(errors="surrogatepass")).digest()
        halves[digest[0] % 2].append(position)
    return halves


def compute_overlap(first: Slice, second: Slice) -> float:
    """Return the Jaccard similarity of two slices: shared rows divided by rows in either."""
    return len(first.members & second.members) / len(first.members | second.members)


def compute_weakness(
    rows: Sequence[ScoredRow], half: Sequence[int], candidate: Slice, sign: float
) -> float:
    """Return the p-value of the hypothesis that a slice is not worse than the other rows.

    Values of right or wrong in independent, equally weighted rows use Fisher's exact test. Other
    values use a t-test of the difference of weighted means, with its variance over units (rows or
    groups).

    Args:
        rows: all scored rows.
        half: indices of the rows to test on.
        candidate: the slice.
        sign: 1 if higher values are better, -1 if lower ones are.
    """
    inside = [rows[i] for i in half if i in candidate.members]
    outside = [rows[i] for i in half if i not in candidate.members]
    both = [*inside, *outside]
    if len(inside) < MIN_UNITS or len(outside) < MIN_UNITS:
        return 1.0
    is_simple = all(r.value in (0, 1) and r.group is None and r.weight == 1 for r in both)
    return _fisher(inside, outside, sign) if is_simple else _t_test(inside, outside, sign)


def _fisher(inside: Sequence[ScoredRow], outside: Sequence[ScoredRow], sign: float) -> float:
    from scipy.stats import hypergeom

    good = 1.0 if sign > 0 else 0.0
    hits = sum(row.value == good for row in inside)
    total = hits + sum(row.value == good for row in outside)
    rows = len(inside) + len(outside)
    return float(hypergeom.cdf(hits, rows, total, len(inside)))


def _t_test(inside: Sequence[ScoredRow], outside: Sequence[ScoredRow], sign: float) -> float:
    from scipy.stats import t

    units: dict[object, float] = {}
    counts = []
    for part, direction in ((inside, 1.0), (outside, -1.0)):
        mass = math.fsum(row.weight for row in part)
        if mass == 0:
            return 1.0
        mean = _mean(part)
        keys = set()
        for row in part:
            share = direction * row.weight * (row.value - mean) / mass
            units[_unit(row)] = units.get(_unit(row), 0.0) + share
            keys.add(_unit(row))
        counts.append(len(keys))
    smallest = min(counts)
    if smallest < MIN_UNITS:
        return 1.0
    variance = math.fsum(v * v for v in units.values()) * smallest / (smallest - 1)
    difference = sign * (_mean(inside) - _mean(outside))
    if difference == 0:
        return 1.0
    if variance == 0:  # Assume that one unit of each part had the other part's value.
        variance = math.fsum((difference / count) ** 2 for count in counts)
    return float(t.cdf(difference / math.sqrt(variance), smallest - 1))


def _mean(rows: Sequence[ScoredRow]) -> float:
    counted = [row for row in rows if row.weight]
    if not counted:
        return math.nan
    mass = math.fsum(row.weight for row in counted)
    mean = math.fsum(row.weight * row.value for row in counted) / mass
    values = [row.value for row in counted]
    return min(max(mean, min(values)), max(values))  # undo rounding: equal values stay equal


def _describe(
    rows: Sequence[ScoredRow], half: Sequence[int], candidate: Slice, p_value: float
) -> WeakSlice:
    inside = [rows[i] for i in half if i in candidate.members]
    outside = [rows[i] for i in half if i not in candidate.members]
    units = len({_unit(row) for row in inside})
    return WeakSlice(candidate, _mean(inside), _mean(outside), len(inside), p_value, units)


def _unit(row: ScoredRow) -> object:
    """Return what identifies a row's independent unit: its group, or the row itself."""
    return row.number if row.group is None else f"group {row.group}"

"""Find weak slices: discover them on one half of the rows, and confirm them on the other.

Many slices are tried, and the worst of many looks bad by chance. So the rows are divided at random,
groups as a whole. On the first half the worst slices are chosen; only these are tested on the other
half, with Holm's correction, and their scores are those of the other half. Where no slice is weak,
one is reported in at most 5 % of runs.
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
PROMISING = 0.1
"""Largest p-value on the first half of a slice that is tested on the other half."""
MAX_TESTED = 3
MAX_OVERLAP = 0.5
"""Slices that share more of their rows (Jaccard) than this are tested once, the clearest."""
MIN_UNITS = 3
"""Fewer rows or groups than this in a half say nothing."""


@dataclass(frozen=True)
class WeakSlice:
    """A slice that was tested on the second half of the rows."""

    slice: Slice
    value: float
    """Mean of the slice, on the second half."""
    others: float
    """Mean of the other rows of the second half."""
    n: int
    """Rows of the slice in the second half."""
    p_value: float
    """Of the hypothesis that the slice is not worse, adjusted by Holm."""

    @property
    def is_confirmed(self) -> bool:
        """True if the slice is weak."""
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
        candidates: the slices to choose from; None: those of :func:`find_candidates`.
        seed: of the division into halves.
    """
    chosen = find_candidates(rows) if candidates is None else candidates
    first, second = split_in_halves(rows, seed)
    sign = 1.0 if higher_is_better else -1.0
    scored = [(p, c) for c in chosen if (p := compute_weakness(rows, first, c, sign)) <= PROMISING]
    scored.sort(key=lambda pair: (pair[0], pair[1].name))
    tested: list[Slice] = []
    for _, candidate in scored:
        if len(tested) < MAX_TESTED and all(overlap(candidate, t) <= MAX_OVERLAP for t in tested):
            tested.append(candidate)
    p_values = adjust_p_values([compute_weakness(rows, second, c, sign) for c in tested])
    found = [_describe(rows, second, c, p) for c, p in zip(tested, p_values, strict=True)]
    return sorted(found, key=lambda weak: weak.p_value)


def split_in_halves(rows: Sequence[ScoredRow], seed: int = 0) -> tuple[list[int], list[int]]:
    """Return the positions of two halves; the rows of a group are in one of them.

    A row stays in its half whatever rows are added or removed, because its content decides: else
    rows that were looked at to collect others would be among those that show the improvement.
    """
    halves: tuple[list[int], list[int]] = ([], [])
    for position, row in enumerate(rows):
        content = ("row", row.prompt or row.source, row.expected)
        unit = content if row.group is None else ("group", row.group)
        digest = hashlib.blake2b(f"{seed}/slices/{unit!r}".encode(errors="surrogatepass")).digest()
        halves[digest[0] % 2].append(position)
    return halves


def overlap(first: Slice, second: Slice) -> float:
    """Return the share of rows that two slices have in common (Jaccard)."""
    return len(first.members & second.members) / len(first.members | second.members)


def compute_weakness(
    rows: Sequence[ScoredRow], half: Sequence[int], candidate: Slice, sign: float
) -> float:
    """Return the p-value of the hypothesis that a slice is not worse than the other rows.

    ``half`` has the positions of the rows that decide; ``sign`` is -1 if a lower value is better.

    Fisher's exact test for rows that are right or wrong, independent and of one weight. Else a
    t-test of the difference of weighted means, whose variance is that of units (rows or groups).
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
            key = row.number if row.group is None else f"group {row.group}"
            share = direction * row.weight * (row.value - mean) / mass
            units[key] = units.get(key, 0.0) + share
            keys.add(key)
        counts.append(len(keys))
    smallest = min(counts)
    if smallest < MIN_UNITS:
        return 1.0
    variance = math.fsum(v * v for v in units.values()) * smallest / (smallest - 1)
    difference = sign * (_mean(inside) - _mean(outside))
    if difference == 0:
        return 1.0
    if variance == 0:  # as if one unit of each part had the values of the other
        variance = math.fsum((difference / count) ** 2 for count in counts)
    return float(t.cdf(difference / math.sqrt(variance), smallest - 1))


def _mean(rows: Sequence[ScoredRow]) -> float:
    counted = [row for row in rows if row.weight]
    if not counted:
        return math.nan
    mass = math.fsum(row.weight for row in counted)
    mean = math.fsum(row.weight * row.value for row in counted) / mass
    values = [row.value for row in counted]
    return min(max(mean, min(values)), max(values))  # rounding must not make equal values differ


def _describe(
    rows: Sequence[ScoredRow], half: Sequence[int], candidate: Slice, p_value: float
) -> WeakSlice:
    inside = [rows[i] for i in half if i in candidate.members]
    outside = [rows[i] for i in half if i not in candidate.members]
    return WeakSlice(candidate, _mean(inside), _mean(outside), len(inside), p_value)

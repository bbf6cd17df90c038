"""Keep a curve of any length in bounded memory, with the spread of its values."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

BUCKETS = 256
"""A series has at most this many buckets. When it is full, they become twice as wide."""
MAX_VALUE = 1e150
"""The square of a larger value might overflow."""
Z_95 = 1.96
"""Standard normal quantile of a 95 % interval."""


@dataclass
class Bucket:
    """Count, mean and squared deviations of the values of some consecutive steps."""

    step: int
    n: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def merge(self, other: Bucket) -> None:
        """Add the values of another bucket (Chan, Golub and LeVeque, 1979)."""
        n, delta = self.n + other.n, other.mean - self.mean
        self.squares += other.squares + delta * delta * self.n * other.n / n
        self.mean += delta * other.n / n
        self.n = n

    @property
    def margin(self) -> float:
        """Half the width of the mean's 95 % interval, if steps are independent; 0 for one step."""
        return Z_95 * math.sqrt(self.squares / (self.n - 1) / self.n) if self.n > 1 else 0.0


class Series:
    """The values of a quantity by step, in buckets of equal width, stored as arrays."""

    def __init__(self) -> None:
        self.width = 1
        self.last: tuple[int, float] | None = None
        self._set([])

    def _set(self, buckets: Sequence[Bucket]) -> None:
        self._steps = array("q", [bucket.step for bucket in buckets])
        self._counts = array("q", [bucket.n for bucket in buckets])
        self._means = array("d", [bucket.mean for bucket in buckets])
        self._squares = array("d", [bucket.squares for bucket in buckets])

    def buckets(self) -> list[Bucket]:
        """Return the buckets, in the order of their steps."""
        return list(map(Bucket, self._steps, self._counts, self._means, self._squares))

    def add(self, step: int, value: float) -> None:
        """Add the value of a step. NaN, too large values and old steps are ignored."""
        if not abs(value) < MAX_VALUE or (self.last is not None and step <= self.last[0]):
            return
        start = step - step % self.width
        if self._steps and self._steps[-1] == start:  # Welford, Technometrics 1962
            self._counts[-1] = n = self._counts[-1] + 1
            delta = value - self._means[-1]
            self._means[-1] += delta / n
            self._squares[-1] += delta * (value - self._means[-1])
        else:
            self._steps.append(start)
            self._counts.append(1)
            self._means.append(value)
            self._squares.append(0.0)
            while len(self._steps) > BUCKETS:
                self._widen()
        self.last = step, value

    def rewind(self, step: int) -> None:
        """Remove the steps after this one, which a resumed run repeats.

        A bucket that also has earlier steps stays as it is.
        """
        kept = [bucket for bucket in self.buckets() if bucket.step <= step]
        self._set(kept)
        if self.last is not None and self.last[0] > step:
            self.last = (step, kept[-1].mean) if kept else None

    def _widen(self) -> None:
        self.width *= 2
        merged: dict[int, Bucket] = {}
        for bucket in self.buckets():
            start = bucket.step - bucket.step % self.width
            merged.setdefault(start, Bucket(start)).merge(bucket)
        self._set([*merged.values()])


def group_by_column(
    buckets: Sequence[Bucket], columns: int, first: int, last: int
) -> dict[int, Bucket]:
    """Merge buckets into the columns of a plot of the steps from ``first`` to ``last``."""
    span, groups = max(1, last - first), dict[int, Bucket]()
    for bucket in buckets:
        place = min(columns - 1, max(0, round((bucket.step - first) / span * (columns - 1))))
        groups.setdefault(place, Bucket(bucket.step)).merge(bucket)
    return groups

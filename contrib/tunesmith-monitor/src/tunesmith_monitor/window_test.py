"""Test if the requests of a window differ from the reference requests.

A window of W requests is compared with N reference requests by the means of their features.
Features belong to groups, such as the topic or the length. The score of a group is the squared
distance of the two means, in standard deviations. This is the maximum mean discrepancy with a
linear kernel (Gretton et al. 2012, *A Kernel Two-Sample Test*, section 2). A group that may only
fall has a one-sided score.

The score of a window is the highest score of its groups, each relative to its own 99th percentile.
The test is a permutation test: windows are drawn without replacement from the requests of both
sides. Without a change, all of them are exchangeable, so the p-value is valid for any number of
requests. Since this holds for each window, the expected number of false alarms is the number of
windows times the level, even though all windows share one reference.

Most windows are settled by a screening threshold, which is resampled from the reference alone.

Shapes: N reference requests, W requests of a window, F features, G groups, B resamples.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from tunesmith.errors import UsageError

Array = npt.NDArray[np.float64]
MAX_RESAMPLES = 200_000
RESAMPLES_PER_ALARM = 4
"""Resamples above the threshold; a single one would make the threshold too random."""
UNIT_QUANTILE = 0.99


@dataclass(frozen=True)
class Group:
    """Features that are tested together."""

    name: str
    columns: slice
    falls: bool = False
    """True if only a lower mean is a change. The group then has one column."""
    tolerance: float = 0.0
    """Change of the mean that does not count, for a group with ``falls``."""


@dataclass(frozen=True)
class Reference:
    """The features of the reference requests, with their means and standard deviations."""

    rows: Array
    groups: Sequence[Group]

    @cached_property
    def mean(self) -> Array:
        """The mean of each feature."""
        mean: Array = self.rows.mean(axis=0)
        return mean

    @cached_property
    def scale(self) -> Array:
        """The standard deviation of each feature."""
        # The floor is the deviation of a feature that one more request might have shown.
        scale: Array = np.maximum(self.rows.std(axis=0), 1 / math.sqrt(len(self.rows)))
        return scale

    def scores(self, means_BF: Array, *, tolerant: bool = False) -> Array:
        """Return the score of each group for the means of windows: (B, G)."""
        distances_BF = (means_BF - self.mean) / self.scale
        return np.stack(
            [
                _fall(distances_BF[:, group.columns], self._slack(group) if tolerant else 0.0)
                if group.falls
                else np.square(distances_BF[:, group.columns]).sum(axis=1)
                for group in self.groups
            ],
            axis=1,
        )

    def _slack(self, group: Group) -> float:
        return group.tolerance / float(self.scale[group.columns][0])

    def draw_null(self, size: int, count: int, seed: int) -> Array:
        """Return the scores of at least ``count`` windows drawn from these requests: (B, G)."""
        rng, rows = np.random.default_rng(seed), len(self.rows)
        per_draw = rows // size
        parts = []
        for _ in range(-(-count // per_draw)):
            order = rng.permutation(rows)[: per_draw * size]
            parts.append(self.rows[order].reshape(per_draw, size, -1).mean(axis=1))
        return self.scores(np.concatenate(parts))


@dataclass(frozen=True)
class WindowTest:
    """The test of windows of one size at one level."""

    reference: Reference
    size: int
    level: float
    """Probability of a false alarm per window."""
    resamples: int
    units: Array
    """99th percentile of the score of each group."""
    threshold: float
    """Screening threshold of the highest relative score."""

    @classmethod
    def build(cls, reference: Reference, size: int, level: float, seed: int) -> WindowTest:
        """Choose the screening threshold.

        Raises:
            UsageError: the level is too low for this window, or the reference is too small.
        """
        resamples = math.ceil(RESAMPLES_PER_ALARM / level)
        if resamples > MAX_RESAMPLES:
            raise UsageError(
                f"a window of {size} requests is too short for so few false alarms",
                hint="set a larger --window or a smaller --run-length",
            )
        if len(reference.rows) < 3 * size:
            raise UsageError(
                f"{len(reference.rows)} reference requests are too few for windows of {size}",
                hint=f"give at least {3 * size} with --reference, or set a smaller --window",
            )
        null_BG = reference.draw_null(size, resamples, seed)
        units_G, best_B = _relative(null_BG)
        # Screening lets twice as many windows through as the exact test may report.
        kept = max(1, math.floor(2 * level * len(best_B)))
        threshold = float(np.partition(best_B, -kept)[-kept])
        return cls(reference, size, level, resamples, units_G, threshold)

    def find_changed(
        self, window_WF: Array, seed: int, ignored: Collection[str] = ()
    ) -> Mapping[str, float]:
        """Return the p-value of each group that changed; usually empty.

        Args:
            window_WF: the features of the window's requests.
            seed: seed of the permutations.
            ignored: names of groups that are already known to have changed.
        """
        groups = self.reference.groups
        active = np.array([group.name not in ignored for group in groups])
        if not active.any():
            return {}
        mean_BF = window_WF.mean(axis=0)[None]
        screened = self.reference.scores(mean_BF, tolerant=True)[0] / self.units
        if screened[active].max() < self.threshold:
            return {}
        pool = Reference(np.concatenate([self.reference.rows, window_WF]), groups)
        null_BG = pool.draw_null(self.size, self.resamples, seed)
        units_G, best_B = _relative(null_BG[:, active])
        found = pool.scores(mean_BF, tolerant=True)[0][active] / units_G
        names = [group.name for group in groups if group.name not in ignored]
        counts = [int((best_B >= score).sum()) for score in found]
        p_values = {
            name: (1 + n) / (1 + len(best_B)) for name, n in zip(names, counts, strict=True)
        }
        return {name: p for name, p in p_values.items() if p <= self.level}


def _relative(null_BG: Array) -> tuple[Array, Array]:
    """Return the unit of each group, and the highest relative score of each resample."""
    units_G = np.maximum(np.quantile(null_BG, UNIT_QUANTILE, axis=0), 1e-12)
    return units_G, (null_BG / units_G).max(axis=1)


def _fall(distances_BF: Array, slack: float) -> Array:
    falls: Array = np.maximum(-distances_BF[:, 0] - slack, 0)
    return falls

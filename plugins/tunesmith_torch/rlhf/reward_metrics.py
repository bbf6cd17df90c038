"""Whether a reward model can be trusted: accuracy, calibration, and what is left without length."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tunesmith.statistics import Interval, mean_interval, paired_p_value

MATCHED = 0.1
"""Answers are equally long if their tokens differ by at most this share of the longer one."""
BINS = 10
ALPHA = 0.05
"""How often luck alone may look like judgement; intervals are of 1 - ALPHA."""


@dataclass(frozen=True)
class RewardReport:
    """A reward model on held-out pairs."""

    accuracy: Interval
    """Share of pairs whose chosen answer gets the higher reward; a tie is half a pair."""
    calibration_error: float
    """Mean distance between how sure it is and how often it is right."""
    matched_accuracy: Interval | None
    """Accuracy on pairs of equally long answers; None where there are none."""
    longer_wins: float
    """Share of pairs in which it rewards the longer answer more."""
    longer_chosen: float
    """Share of pairs in which people chose the longer answer, among those of unequal length."""
    longer_accuracy: Interval | None
    """Accuracy on pairs whose chosen answer is the longer one; None where there are none."""
    shorter_accuracy: Interval | None
    """The same where the chosen answer is the shorter one."""
    length_correlation: float
    """Of how much more reward an answer gets with how much longer it is; 0 where all are alike."""
    length_accuracy: Interval
    """Accuracy of length alone, taken the way round in which it agrees with the rewards."""
    p_value: float
    """How probable a coin is to be at least as far from one half."""
    units: int
    """Independent pairs: those of one group are one."""

    @property
    def beats_chance(self) -> bool:
        """Whether the accuracy is above one half beyond its interval, and beyond luck."""
        return self.accuracy.low > 0.5 and self.p_value < ALPHA

    @property
    def too_few(self) -> bool:
        """Whether even being right on every pair could be luck: a coin does it too often."""
        return 2.0 ** (1 - self.units) >= ALPHA

    @property
    def balanced_accuracy(self) -> Interval | None:
        """Mean of the accuracies where the longer and where the shorter answer was chosen.

        Length alone has one half, however often people chose the longer answer. None where one of
        the sides has no pairs. The interval is Zou and Donner's (2008, MOVER) for a sum.
        """
        sides = (self.longer_accuracy, self.shorter_accuracy)
        if sides[0] is None or sides[1] is None:
            return None
        a, b = sides[0], sides[1]
        value = (a.value + b.value) / 2
        below = math.hypot(a.value - a.low, b.value - b.low) / 2
        above = math.hypot(a.high - a.value, b.high - b.value) / 2
        return Interval(value, value - below, value + above, a.n + b.n)

    @property
    def length_unclear(self) -> bool:
        """Whether all that it gets right may be length, and no pair shows that it is not.

        Length alone beats chance on these pairs; what would tell the two apart, pairs of equal
        length or of both sides alike, does not show that it knows anything else.
        """
        if self.length_accuracy.low <= 0.5:
            return False
        shown = (self.matched_accuracy, self.balanced_accuracy)
        return not any(part is not None and part.low > 0.5 for part in shown)

    @property
    def length_biased(self) -> bool:
        """Whether it judges by length: what looks like judgement is not there without it.

        Beating chance on pairs of equal length acquits. Else it is convicted where its accuracy on
        them lies clearly below the one on all, or where it is clearly worse than chance when people
        chose the shorter answer, or the longer one.
        """
        matched = self.matched_accuracy
        if matched is not None and matched.low > 0.5:
            return False
        lost = matched is not None and matched.high < self.accuracy.low
        sides = (self.longer_accuracy, self.shorter_accuracy)
        return lost or any(side is not None and side.high < 0.5 for side in sides)

    def figures(self) -> dict[str, float]:
        """What a gate tells beside its verdict."""
        found = {
            "accuracy": self.accuracy.value,
            "calibration_error": self.calibration_error,
            "longer_wins": self.longer_wins,
            "longer_chosen": self.longer_chosen,
            "length_correlation": self.length_correlation,
            "length_accuracy": self.length_accuracy.value,
        }
        some = {
            "matched_accuracy": self.matched_accuracy,
            "balanced_accuracy": self.balanced_accuracy,
            "longer_accuracy": self.longer_accuracy,
            "shorter_accuracy": self.shorter_accuracy,
        }
        return found | {name: part.value for name, part in some.items() if part is not None}

    def sentence(self) -> str:
        """For people."""
        a, m = self.accuracy, self.matched_accuracy
        matched = f"{m.value:.3f} [{m.low:.3f}, {m.high:.3f}] on {m.n}" if m else "no such pairs"
        return (
            f"accuracy {a.value:.3f} [{a.low:.3f}, {a.high:.3f}] on {a.n} held-out pairs; "
            f"equally long answers: {matched}; calibration error {self.calibration_error:.3f}; "
            f"longer answer rewarded {self.longer_wins:.0%}, chosen {self.longer_chosen:.0%}, "
            f"correlation of reward with length {self.length_correlation:+.2f}"
        )


def reward_report(
    chosen: Sequence[float],
    rejected: Sequence[float],
    lengths: Sequence[tuple[int, int]],
    groups: Sequence[str | None] | None = None,
) -> RewardReport:
    """From the rewards of both answers and their token counts (chosen, rejected).

    ``groups`` tie pairs to each other: pairs of one group count as one observation.

    Raises:
        ValueError: no pairs.
    """
    gaps = [good - bad for good, bad in zip(chosen, rejected, strict=True)]
    right = [_right(gap) for gap in gaps]
    ties = list(groups) if groups is not None else [None] * len(gaps)
    matched = [abs(a - b) <= MATCHED * max(a, b) for a, b in lengths]
    differences = [a - b for a, b in lengths]
    wins = [_right(gap * d) for gap, d in zip(gaps, differences, strict=True) if d]
    longer_wins = math.fsum(wins) / len(wins) if wins else 0.5
    side = 1 if longer_wins >= 0.5 else -1
    return RewardReport(
        accuracy=mean_interval(right, groups=ties, bounds=(0, 1)),
        calibration_error=_calibration_error(gaps, right),
        matched_accuracy=_among(matched, right, ties),
        longer_wins=longer_wins,
        longer_chosen=_share([d > 0 for d in differences if d]),
        longer_accuracy=_among([d > 0 for d in differences], right, ties),
        shorter_accuracy=_among([d < 0 for d in differences], right, ties),
        length_correlation=_correlation(gaps, differences),
        length_accuracy=mean_interval(
            [_right(side * d) for d in differences], groups=ties, bounds=(0, 1)
        ),
        p_value=paired_p_value([0.5] * len(right), right, groups=ties),
        units=len({tie for tie in ties if tie is not None}) + ties.count(None),
    )


def _right(gap: float) -> float:
    """1 where the first of two is ahead, 0 where the second is, one half where neither is."""
    return 0.5 if gap == 0 else float(gap > 0)


def _among(
    chosen: Sequence[bool], right: Sequence[float], groups: Sequence[str | None]
) -> Interval | None:
    rows = [row for row, wanted in enumerate(chosen) if wanted]
    if not rows:
        return None
    return mean_interval([right[r] for r in rows], groups=[groups[r] for r in rows], bounds=(0, 1))


def _correlation(ones: Sequence[float], others: Sequence[float]) -> float:
    """Pearson's, of differences whose sign is arbitrary: which answer comes first says nothing, so
    each pair counts both ways round and both means are zero.
    """
    product = math.fsum(x * y for x, y in zip(ones, others, strict=True))
    size = math.sqrt(math.fsum(x * x for x in ones) * math.fsum(y * y for y in others))
    return product / size if size else 0.0


def _calibration_error(gaps: Sequence[float], right: Sequence[float]) -> float:
    """``sum over bins of |mean confidence - mean accuracy|``, weighted (Guo et al. 2017, eq. 3).

    The confidence in the answer it prefers is ``sigmoid(|gap|)``, from one half to one.
    """
    bins: list[list[tuple[float, float]]] = [[] for _ in range(BINS)]
    for gap, ok in zip(gaps, right, strict=True):
        sure = 1 / (1 + math.exp(-min(abs(gap), 700)))
        bins[min(int((sure - 0.5) * 2 * BINS), BINS - 1)].append((sure, ok))
    return sum(abs(math.fsum(sure - ok for sure, ok in part)) for part in bins) / len(gaps)


def _share(marks: Sequence[bool]) -> float:
    return sum(marks) / len(marks) if marks else 0.5

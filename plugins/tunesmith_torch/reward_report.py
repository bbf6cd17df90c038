"""Whether a reward model can be trusted: accuracy, calibration, and what is left without length."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tunesmith.statistics import Interval, mean_interval

MATCHED = 0.1
"""Answers are equally long if their tokens differ by at most this share of the longer one."""
BINS = 10


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

    @property
    def beats_chance(self) -> bool:
        """Whether the interval of the accuracy lies above one half."""
        return self.accuracy.low > 0.5

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
        }
        some = {
            "matched_accuracy": self.matched_accuracy,
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
    right = [0.5 if gap == 0 else float(gap > 0) for gap in gaps]
    ties = list(groups) if groups is not None else [None] * len(gaps)
    matched = [abs(a - b) <= MATCHED * max(a, b) for a, b in lengths]
    unequal = [(gap, a > b) for gap, (a, b) in zip(gaps, lengths, strict=True) if a != b]
    return RewardReport(
        accuracy=mean_interval(right, groups=ties),
        calibration_error=_calibration_error(gaps, right),
        matched_accuracy=_among(matched, right, ties),
        longer_wins=_share([(gap > 0) == longer for gap, longer in unequal]),
        longer_chosen=_share([longer for _, longer in unequal]),
        longer_accuracy=_among([a > b for a, b in lengths], right, ties),
        shorter_accuracy=_among([a < b for a, b in lengths], right, ties),
        length_correlation=_correlation(gaps, [a - b for a, b in lengths]),
    )


def _among(
    chosen: Sequence[bool], right: Sequence[float], groups: Sequence[str | None]
) -> Interval | None:
    rows = [row for row, wanted in enumerate(chosen) if wanted]
    if not rows:
        return None
    return mean_interval([right[r] for r in rows], groups=[groups[r] for r in rows])


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

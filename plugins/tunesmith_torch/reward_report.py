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

    @property
    def beats_chance(self) -> bool:
        """Whether the interval of the accuracy lies above one half."""
        return self.accuracy.low > 0.5

    @property
    def length_biased(self) -> bool:
        """Whether what looks like judgement is gone once answers are equally long."""
        matched = self.matched_accuracy
        return matched is not None and matched.high < self.accuracy.low

    def sentence(self) -> str:
        """For people."""
        a, m = self.accuracy, self.matched_accuracy
        matched = f"{m.value:.3f} [{m.low:.3f}, {m.high:.3f}] on {m.n}" if m else "no such pairs"
        return (
            f"accuracy {a.value:.3f} [{a.low:.3f}, {a.high:.3f}] on {a.n} held-out pairs; "
            f"equally long answers: {matched}; calibration error {self.calibration_error:.3f}; "
            f"longer answer rewarded {self.longer_wins:.0%}, chosen {self.longer_chosen:.0%}"
        )


def reward_report(
    chosen: Sequence[float], rejected: Sequence[float], lengths: Sequence[tuple[int, int]]
) -> RewardReport:
    """From the rewards of both answers and their token counts (chosen, rejected).

    Raises:
        ValueError: no pairs.
    """
    gaps = [good - bad for good, bad in zip(chosen, rejected, strict=True)]
    right = [0.5 if gap == 0 else float(gap > 0) for gap in gaps]
    matched = [
        ok for ok, (a, b) in zip(right, lengths, strict=True) if abs(a - b) <= MATCHED * max(a, b)
    ]
    unequal = [(gap, a > b) for gap, (a, b) in zip(gaps, lengths, strict=True) if a != b]
    return RewardReport(
        accuracy=mean_interval(right),
        calibration_error=_calibration_error(gaps, right),
        matched_accuracy=mean_interval(matched) if matched else None,
        longer_wins=_share([(gap > 0) == longer for gap, longer in unequal]),
        longer_chosen=_share([longer for _, longer in unequal]),
    )


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

"""Metrics of a reward model on validation pairs: accuracy, calibration, length bias.

A reward model may have learned only that people prefer the longer completion. Three metrics show
whether it knows more: the accuracy on pairs of equal length, the mean of the accuracies on pairs
whose chosen completion is the longer and the shorter one (balanced accuracy; length alone reaches
exactly one half), and the accuracy that length alone has on these pairs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tunesmith.statistics import Interval, mean_interval
from tunesmith_evidence.number_text import (
    format_difference,
    format_estimate,
    format_number,
    format_share,
)
from tunesmith_evidence.statistics import paired_p_value

MAX_LENGTH_DIFFERENCE = 0.1
"""Completions are equally long if their tokens differ by at most this share of the longer one."""
CALIBRATION_BINS = 10
ALPHA = 0.05
"""Significance level; intervals are of 1 - ALPHA."""


@dataclass(frozen=True)
class RewardReport:
    """The metrics of a reward model on validation pairs."""

    accuracy: Interval
    """Share of pairs whose chosen completion gets the higher reward; a tie counts as one half."""
    calibration_error: float
    """Mean difference between its confidence and its accuracy."""
    matched_accuracy: Interval | None
    """Accuracy on pairs of equally long completions; None if there are none."""
    longer_wins: float
    """Share of pairs in which the longer completion gets the higher reward."""
    longer_chosen: float
    """Share of pairs with the longer completion chosen, among those of unequal length."""
    longer_accuracy: Interval | None
    """Accuracy on pairs whose chosen completion is the longer one; None if there are none."""
    shorter_accuracy: Interval | None
    """Accuracy on pairs whose chosen completion is the shorter one; None if there are none."""
    length_correlation: float
    """Correlation of the difference in reward with that in length; 0 if no pair differs in one."""
    length_accuracy: Interval
    """Accuracy of length alone: "longer is better", or "shorter" if the rewards prefer that."""
    p_value: float
    """Probability that random guessing has an accuracy at least as far from one half."""
    independent_pairs: int
    """Number of independent pairs: all pairs of a group count as one."""

    @property
    def is_above_chance(self) -> bool:
        """True if the accuracy is above one half, by its interval and by the p-value."""
        return self.accuracy.low > 0.5 and self.p_value < ALPHA

    @property
    def has_too_few_pairs(self) -> bool:
        """True if random guessing gets all pairs right too often: no accuracy is significant."""
        return 2.0 ** (1 - self.independent_pairs) >= ALPHA

    @property
    def balanced_accuracy(self) -> Interval | None:
        """Mean of the accuracies where the longer and where the shorter completion was chosen.

        Length alone reaches one half, however often people chose the longer completion. None if one
        of the two has no pairs. The interval is Zou and Donner's (2008, MOVER) for a sum.
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
    def is_length_unclear(self) -> bool:
        """True if length alone may explain the accuracy, and no pair shows that it does not.

        Length alone is better than chance on these pairs, and neither the pairs of equal length nor
        the balanced accuracy show that the reward model has learned anything else.
        """
        if self.length_accuracy.low <= 0.5:
            return False
        evidence = (self.matched_accuracy, self.balanced_accuracy)
        return not any(part is not None and part.low > 0.5 for part in evidence)

    @property
    def is_length_biased(self) -> bool:
        """True if the accuracy disappears without the help of length.

        Never if it is better than chance on pairs of equal length. Otherwise if its accuracy on
        them is clearly below the one on all pairs, or if it is clearly worse than chance where
        people chose the shorter completion, or the longer one.
        """
        matched = self.matched_accuracy
        if matched is not None and matched.low > 0.5:
            return False
        drops = matched is not None and matched.high < self.accuracy.low
        sides = (self.longer_accuracy, self.shorter_accuracy)
        return drops or any(side is not None and side.high < 0.5 for side in sides)

    def metrics(self) -> dict[str, float]:
        """Return the metrics that the gate reports."""
        metrics = {
            "accuracy": self.accuracy.value,
            "calibration_error": self.calibration_error,
            "longer_wins": self.longer_wins,
            "longer_chosen": self.longer_chosen,
            "length_correlation": self.length_correlation,
            "length_accuracy": self.length_accuracy.value,
        }
        optional = {
            "matched_accuracy": self.matched_accuracy,
            "balanced_accuracy": self.balanced_accuracy,
            "longer_accuracy": self.longer_accuracy,
            "shorter_accuracy": self.shorter_accuracy,
        }
        return metrics | {name: part.value for name, part in optional.items() if part is not None}

    def summary(self) -> str:
        """Return the metrics as a sentence."""
        a, m = self.accuracy, self.matched_accuracy
        matched = f"{format_estimate(m.value, m.low, m.high)} on {m.n}" if m else "no such pairs"
        return (
            f"accuracy {format_estimate(a.value, a.low, a.high)} on {a.n} validation pairs; "
            f"equally long completions: {matched}; calibration error "
            f"{format_number(self.calibration_error)}; longer completion rewarded "
            f"{format_share(self.longer_wins)}, chosen {format_share(self.longer_chosen)}, "
            f"correlation of reward with length {format_difference(self.length_correlation)}"
        )


def reward_report(
    chosen: Sequence[float],
    rejected: Sequence[float],
    lengths: Sequence[tuple[int, int]],
    groups: Sequence[str | None] | None = None,
) -> RewardReport:
    """Compute the metrics from the rewards and the token counts (chosen, rejected) of pairs.

    ``groups`` names the group of each pair, None for none: pairs of one group count as one
    observation.

    Raises:
        ValueError: no pairs.
    """
    margins = [a - b for a, b in zip(chosen, rejected, strict=True)]
    correct = [_win(margin) for margin in margins]
    group_names = list(groups) if groups is not None else [None] * len(margins)
    matched = [abs(a - b) <= MAX_LENGTH_DIFFERENCE * max(a, b) for a, b in lengths]
    differences = [a - b for a, b in lengths]
    wins = [_win(margin * d) for margin, d in zip(margins, differences, strict=True) if d]
    longer_wins = math.fsum(wins) / len(wins) if wins else 0.5
    sign = 1 if longer_wins >= 0.5 else -1
    return RewardReport(
        accuracy=mean_interval(correct, groups=group_names, bounds=(0, 1)),
        calibration_error=_calibration_error(margins, correct),
        matched_accuracy=_accuracy_among(matched, correct, group_names),
        longer_wins=longer_wins,
        longer_chosen=_share([d > 0 for d in differences if d]),
        longer_accuracy=_accuracy_among([d > 0 for d in differences], correct, group_names),
        shorter_accuracy=_accuracy_among([d < 0 for d in differences], correct, group_names),
        length_correlation=_correlation(margins, differences),
        length_accuracy=mean_interval(
            [_win(sign * d) for d in differences], groups=group_names, bounds=(0, 1)
        ),
        p_value=paired_p_value([0.5] * len(correct), correct, groups=group_names),
        independent_pairs=len({name for name in group_names if name is not None})
        + group_names.count(None),
    )


def _win(difference: float) -> float:
    """Return 1 for a positive difference, 0 for a negative one, one half for 0."""
    return 0.5 if difference == 0 else float(difference > 0)


def _accuracy_among(
    selected: Sequence[bool], correct: Sequence[float], groups: Sequence[str | None]
) -> Interval | None:
    rows = [row for row, is_selected in enumerate(selected) if is_selected]
    if not rows:
        return None
    return mean_interval(
        [correct[r] for r in rows], groups=[groups[r] for r in rows], bounds=(0, 1)
    )


def _correlation(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Return Pearson's correlation of differences whose sign is arbitrary.

    The order within a pair means nothing, so each pair counts in both orders, and both means are 0.
    """
    covariance = math.fsum(x * y for x, y in zip(xs, ys, strict=True))
    scale = math.sqrt(math.fsum(x * x for x in xs) * math.fsum(y * y for y in ys))
    return covariance / scale if scale else 0.0


def _calibration_error(margins: Sequence[float], correct: Sequence[float]) -> float:
    """Return ``sum over bins of |mean confidence - mean accuracy|``, weighted by the bins' sizes.

    This is the expected calibration error (Guo et al. 2017, eq. 3). The confidence in the preferred
    completion is ``sigmoid(|margin|)``, from one half to one.
    """
    bins: list[list[tuple[float, float]]] = [[] for _ in range(CALIBRATION_BINS)]
    for margin, win in zip(margins, correct, strict=True):
        confidence = 1 / (1 + math.exp(-min(abs(margin), 700)))
        index = min(int((confidence - 0.5) * 2 * CALIBRATION_BINS), CALIBRATION_BINS - 1)
        bins[index].append((confidence, win))
    return sum(abs(math.fsum(confidence - win for confidence, win in part)) for part in bins) / len(
        margins
    )


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags) if flags else 0.5

"""Compute metrics of a reward model on validation pairs: accuracy, calibration, length bias.

A reward model may have learned only that people prefer longer completions. Three metrics show
whether it learned more:

- the accuracy on pairs of equal length;
- the balanced accuracy: the mean of the accuracy where the longer completion was chosen and the
  accuracy where the shorter one was chosen. Length alone reaches exactly one half;
- the accuracy of a rule that uses length alone, on the same pairs, for comparison.
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
"""Completions count as equally long if they differ by at most this share of the longer one."""
CALIBRATION_BINS = 10
ALPHA = 0.05
"""Significance level; intervals have the confidence level 1 - ALPHA."""


@dataclass(frozen=True)
class RewardReport:
    """The metrics of a reward model on validation pairs."""

    accuracy: Interval
    """Share of pairs whose chosen completion gets the higher reward; a tie counts as one half."""
    calibration_error: float
    """Expected calibration error: mean gap between confidence and accuracy."""
    matched_accuracy: Interval | None
    """Accuracy on pairs of equally long completions, or None if there are no such pairs."""
    longer_wins: float
    """Share of pairs whose longer completion gets the higher reward."""
    longer_chosen: float
    """Share of pairs whose longer completion was chosen, among pairs of unequal length."""
    longer_accuracy: Interval | None
    """Accuracy on pairs whose chosen completion is longer, or None if there are no such pairs."""
    shorter_accuracy: Interval | None
    """Accuracy on pairs whose chosen completion is shorter, or None if there are no such pairs."""
    length_correlation: float
    """Correlation of reward differences with length differences; 0 if either is constantly zero."""
    length_accuracy: Interval
    """Accuracy of always choosing the longer completion, or the shorter if rewards favor it."""
    p_value: float
    """Probability that random guessing would be at least as far from one half."""
    independent_pairs: int
    """Number of independent pairs; all pairs of a group count as one."""

    @property
    def is_above_chance(self) -> bool:
        """True if the interval and the p-value both show that the accuracy is above one half."""
        return self.accuracy.low > 0.5 and self.p_value < ALPHA

    @property
    def has_too_few_pairs(self) -> bool:
        """True if there are so few pairs that even a perfect accuracy could be chance."""
        return 2.0 ** (1 - self.independent_pairs) >= ALPHA

    @property
    def balanced_accuracy(self) -> Interval | None:
        """The mean of ``longer_accuracy`` and ``shorter_accuracy``, or None if one of them is None.

        A rule that uses length alone scores one half, no matter how often people chose the longer
        completion. The interval is that of a sum by the method of Zou and Donner (2008, MOVER).
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
        """True if length alone could explain the accuracy, and no metric rules this out.

        Length alone beats chance on these pairs, and neither the accuracy on pairs of equal length
        nor the balanced accuracy is significantly above one half.
        """
        if self.length_accuracy.low <= 0.5:
            return False
        evidence = (self.matched_accuracy, self.balanced_accuracy)
        return not any(part is not None and part.low > 0.5 for part in evidence)

    @property
    def is_length_biased(self) -> bool:
        """True if the reward model's accuracy depends on the length of completions.

        The result is False if the accuracy on pairs of equal length is above chance. Otherwise it
        is True if the intervals show one of these:

        - the accuracy on pairs of equal length is below the accuracy on all pairs;
        - the accuracy is below chance where people chose the shorter completion, or where they
          chose the longer one.
        """
        matched = self.matched_accuracy
        if matched is not None and matched.low > 0.5:
            return False
        drops = matched is not None and matched.high < self.accuracy.low
        sides = (self.longer_accuracy, self.shorter_accuracy)
        return drops or any(side is not None and side.high < 0.5 for side in sides)

    def metrics(self) -> dict[str, float]:
        """Return the metrics that the check of the reward model reports."""
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
        """Return the metrics as one line of text."""
        a, m = self.accuracy, self.matched_accuracy
        matched = f"{format_estimate(m.value, m.low, m.high)} on {m.n}" if m else "no such pairs"
        return (
            f"accuracy {format_estimate(a.value, a.low, a.high)} on {a.n} validation pairs; "
            f"equally long completions: {matched}; calibration error "
            f"{format_number(self.calibration_error)}; longer completion rewarded "
            f"{format_share(self.longer_wins)}, chosen {format_share(self.longer_chosen)}, "
            f"correlation of reward with length {format_difference(self.length_correlation)}"
        )


def build_reward_report(
    chosen: Sequence[float],
    rejected: Sequence[float],
    lengths: Sequence[tuple[int, int]],
    groups: Sequence[str | None] | None = None,
) -> RewardReport:
    """Compute the metrics from the rewards and token counts of (chosen, rejected) pairs.

    ``groups`` contains the group of each pair, or None for a pair without a group. The pairs of a
    group count as one observation.

    Raises:
        ValueError: the sequences are empty.
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
    """Return Pearson's correlation of two differences with arbitrary signs.

    The order within a pair has no meaning, so each pair is counted in both orders. This makes both
    means 0.
    """
    covariance = math.fsum(x * y for x, y in zip(xs, ys, strict=True))
    scale = math.sqrt(math.fsum(x * x for x in xs) * math.fsum(y * y for y in ys))
    return covariance / scale if scale else 0.0


def _calibration_error(margins: Sequence[float], correct: Sequence[float]) -> float:
    """Return the expected calibration error (Guo et al. 2017, eq. 3).

    It is ``|mean confidence - mean accuracy|``, averaged over the bins in proportion to their
    sizes. The confidence in the preferred completion is ``sigmoid(|margin|)``, from one half to
    one.
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

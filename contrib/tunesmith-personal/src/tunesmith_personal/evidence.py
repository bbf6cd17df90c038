"""Decide for each user whether the own adapter is better than the best baseline.

A user has few test rows, so each decision combines the user's paired differences with what all
users together show about the size of gains (empirical Bayes).

1. A user's mean difference and its standard error come from the rows plus half a row of each of
   the four outcomes of a pair (Agresti and Min 2005, *Simple improved confidence intervals for
   comparing matched proportions*, section 2). Otherwise, equal differences would be certain.
2. True gains are assumed to be normal with mean 0. Their variance is estimated from all users:
   the mean of the squared differences minus the mean of the squared standard errors.
3. The probability of a gain is that of the posterior distribution of the user's gain.

The mean is fixed at 0, although a normal prior's mean could be estimated too. Then no user gets an
own adapter because others gain from theirs, and the posterior is never more certain than the user's
own rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import NormalDist, fmean
from typing import NamedTuple

PRIOR_ROWS = 4
"""Number of rows that the mean of all users counts as in the choice of a user's baseline."""
FOLDS = 10


def choose_baselines(
    scores: Mapping[str, Mapping[str, Sequence[float]]], names: Sequence[str]
) -> dict[str, str]:
    """Return the baseline with the best score on each user's validation rows.

    A user's mean is shrunk towards the mean of all users. Among equal baselines, the first is
    chosen.

    Args:
        scores: the score of each validation row by user and baseline.
        names: the baselines; the first is chosen if no user has validation rows.
    """
    pooled = {}
    for name in names:
        values = [value for by_name in scores.values() for value in by_name[name]]
        pooled[name] = fmean(values) if values else 0.0

    def score(by_name: Mapping[str, Sequence[float]], name: str) -> float:
        values = by_name[name]
        return (sum(values) + PRIOR_ROWS * pooled[name]) / (len(values) + PRIOR_ROWS)

    return {
        user: max(names, key=lambda name: score(by_name, name)) for user, by_name in scores.items()
    }


class Gain(NamedTuple):
    """A user's mean difference by the user's own rows alone, and the square of its standard error.

    The own rows are the user's paired differences plus half a row of each outcome of a pair.
    """

    mean: float
    variance: float

    @classmethod
    def measure(cls, differences: Sequence[float]) -> Gain:
        """Return the gain that paired differences from -1 to 1 show."""
        rows = len(differences) + 2
        mean = sum(differences) / rows
        squares = sum(value * value for value in differences) + 1
        return cls(mean, (squares / rows - mean * mean) / rows)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the gain, within -1 and 1."""
        half = NormalDist().inv_cdf(0.975) * self.variance**0.5
        return max(-1.0, self.mean - half), min(1.0, self.mean + half)


def compute_probabilities(differences: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return, for each user, the probability that the true gain is above 0.

    Args:
        differences: for each user, the score of the own adapter minus that of the best baseline on
            each test row, from -1 to 1.
    """
    gains = {user: Gain.measure(values) for user, values in differences.items()}
    if not gains:
        return {}
    spread = fmean(g.mean**2 for g in gains.values()) - fmean(g.variance for g in gains.values())
    if spread <= 0:  # the differences are no larger than chance makes them
        return dict.fromkeys(gains, 0.5)
    found = {}
    for user, (mean, variance) in gains.items():
        certainty = spread / (spread + variance)
        found[user] = NormalDist().cdf(mean * (certainty / variance) ** 0.5)
    return found


def decide_out_of_fold(
    differences: Mapping[str, Sequence[float]], probability: float
) -> dict[str, list[bool]]:
    """Return, for each row of each user, whether the other rows give the user the own adapter.
    A score of what users are served is too high if the same rows have chosen it. So the rows of a
    fold are scored with the decisions of the other folds; up to ten rows, each row is a fold.
    """
    decided = {user: [False] * len(values) for user, values in differences.items()}
    for fold in range(FOLDS):
        found = compute_probabilities(
            {u: [v for n, v in enumerate(vs) if n % FOLDS != fold] for u, vs in differences.items()}
        )
        for user, is_own in decided.items():
            for row in range(fold, len(is_own), FOLDS):
                is_own[row] = found[user] >= probability
    return decided

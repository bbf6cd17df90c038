"""Estimate how often an answer would win at equal length, because many judges prefer length.

The wins are regressed on the difference of the two lengths::

    P(win) = sigmoid(a + b tanh(difference / scale))

``sigmoid(a)`` is the share of wins at equal length. This is the length-controlled win rate of
Dubois et al. (2024, arXiv:2404.04475, section 3), without the difficulty of each prompt, which
needs the answers of many models.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from tunesmith.contracts import Generation, Measurement
from tunesmith.offers import Metric
from tunesmith.statistics import Interval, mean_interval
from tunesmith.statistics.sample import build_sample, standard_error
from tunesmith_evidence.number_text import format_estimate

__all__ = ["ANSWER_TOKENS", "LengthControl", "measure_tokens", "share_at_equal_length"]

ANSWER_TOKENS = Metric(
    name="answer-tokens", higher_is_better=False, unit="tokens", is_descriptive=True
)
"""Mean length of the generated answers, which belongs beside every win rate."""

MIN_ROWS = 10
"""Minimum number of rows without a longer answer, and without a shorter one. With fewer rows, a
share at equal length would be an extrapolation."""
PRIOR_PRECISION = 0.1
"""Precision of the normal prior of both coefficients, which keeps them finite if length decides
every row. With 100 rows, it moves a share of 0.7 by 0.001."""
Z = 1.96
"""Quantile of the normal distribution for 95 % intervals."""


@dataclass(frozen=True)
class LengthControl:
    """Wins, ties and losses of answers, and the share of wins expected at equal length."""

    wins: Sequence[float]
    """1 for a win, 1/2 for a tie, 0 for a loss."""
    differences: Sequence[int]
    """Length of the answer minus the length of the other answer."""
    groups: Sequence[str | None]

    def measurements(self, metric: str) -> Iterator[Measurement]:
        """Yield the share of wins at equal length as a metric, if it can be estimated."""
        if self._estimate is not None:
            values, interval = self._estimate
            yield Measurement(metric=metric, values=values, interval=(interval.low, interval.high))

    def details(self, subject: str) -> dict[str, object]:
        """Return how much length explains the result, for the ``details`` of a measurement.

        Args:
            subject: the answers whose wins are counted, with a verb: ``its answers are``.
        """
        if not self.wins:
            return {"explained_by_length": "", "beyond_length": False}
        share = mean_interval(self.wins, groups=self.groups, bounds=(0.0, 1.0))
        equal = None if self._estimate is None else self._estimate[1]
        side = 1 if share.low > 0.5 else -1 if share.high < 0.5 else 0
        explained = ""
        if side and equal is None:
            explained = f"length may explain the result: {subject} {self._describe_lengths()}"
        elif side and equal and not (equal.low > 0.5 if side > 0 else equal.high < 0.5):
            estimate = format_estimate(equal.value, equal.low, equal.high)
            explained = f"length may explain the result: at equal length, it would be {estimate}"
        details = {"explained_by_length": explained, "beyond_length": side > 0 and not explained}
        return details | ({"finding": explained} if explained else {})

    @cached_property
    def _estimate(self) -> tuple[tuple[float, ...], Interval] | None:
        """Estimate one value per row, whose mean is the share of wins at equal length.

        A value is the share plus the row's influence on it (infinitesimal jackknife), so paired
        differences of the values are differences of the share. The estimate is missing if too few
        answers are shorter or equally long, or too few are longer or equally long.
        """
        if min(sum(s * d >= 0 for d in self.differences) for s in (1, -1)) < MIN_ROWS:
            return None
        if len(set(self.wins)) == 1:
            interval = mean_interval(self.wins, groups=self.groups, bounds=(0.0, 1.0))
            return tuple(self.wins), interval
        from scipy.special import expit

        values, logit, error = _regress(self.wins, self.differences)
        share = float(expit(logit))
        sample = build_sample(values, None, self.groups)
        # If length decides nearly every row, the residuals are too small to estimate the error.
        if sample.units > 1:
            error = max(error, standard_error(sample) / (share * (1 - share)))
        low, high = expit([logit - Z * error, logit + Z * error]).tolist()
        return values, Interval(share, low, high, len(values), sample.units)

    def _describe_lengths(self) -> str:
        longer, shorter = (sum(s * d > 0 for d in self.differences) for s in (1, -1))
        count, word = max((longer, "longer"), (shorter, "shorter"))
        return f"{word} in {count:,} of {len(self.differences):,} rows"


def share_at_equal_length(name: str) -> Metric:
    """Return a metric for the share of wins at equal length, which needs more than a few rows."""
    return Metric(
        name=name, higher_is_better=True, bounds=(0, 1), is_row_mean=False, is_optional=True
    )


def measure_tokens(answers: Sequence[Generation]) -> Measurement:
    """Return the number of tokens of each answer."""
    values = tuple(float(answer.tokens) for answer in answers)
    return Measurement(metric=ANSWER_TOKENS.name, values=values)


def _regress(
    wins: Sequence[float], differences: Sequence[int]
) -> tuple[tuple[float, ...], float, float]:
    """Return the contribution of each row, the logit of their mean, and its standard error."""
    import numpy as np
    from scipy.special import expit
    from sklearn.linear_model import LogisticRegression

    lengths_N, wins_N = np.array(differences, np.float64), np.array(wins, np.float64)
    scale = np.sqrt(np.mean(lengths_N**2)) or 1.0
    x_N2 = np.column_stack([np.ones(len(wins)), np.tanh(lengths_N / scale)])
    model = LogisticRegression(
        C=1 / PRIOR_PRECISION, fit_intercept=False, solver="newton-cholesky", tol=1e-9
    )
    model.fit(
        np.vstack([x_N2, x_N2]),
        np.repeat([1, 0], len(wins)),
        sample_weight=np.concatenate([wins_N, 1 - wins_N]),  # a tie is half a win and half a loss
    )
    coefficients_2 = model.coef_[0]
    logit, share_N = float(coefficients_2[0]), expit(x_N2 @ coefficients_2)
    information_22 = (x_N2 * (share_N * (1 - share_N))[:, None]).T @ x_N2
    covariance_22 = np.linalg.inv(information_22 + PRIOR_PRECISION * np.eye(2))
    scores_N2 = x_N2 * (wins_N - share_N)[:, None]
    scores_N2 -= scores_N2.mean(axis=0)  # their sum is the gradient of the prior
    share = expit(logit)
    values_N = share + len(wins) * share * (1 - share) * (scores_N2 @ covariance_22[0])
    return tuple(values_N.tolist()), logit, float(np.sqrt(covariance_22[0, 0]))

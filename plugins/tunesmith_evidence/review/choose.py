"""Calibrate confidences on validation rows, and choose the threshold of a review policy.

The threshold comes from fixed-sequence testing (Angelopoulos et al. 2021, *Learn then Test*,
section 3). The validation rows are ordered by score, and thresholds are tested from high to low::

    scores     9.1  7.4  6.8  5.9  5.5  4.2  3.3 ...
    rows above  1    2    3    4    5    6    7
                               ^ first test  -> until a test fails

Each test asks: could the precision above this threshold be below the required one? It is an exact
binomial test, the dual of the Clopper-Pearson interval. The first threshold that fails ends the
sequence, so no level has to be corrected for the number of tests. The number of rows above each
threshold is fixed in advance, so these rows are an independent sample of all requests above it. If
the precision falls along the sequence, the required precision holds in at least 95 % of the draws
of validation rows.

The sequence cannot start at the first row, where even one right answer shows nothing. It starts at
a fifth of the rows, or where the test tolerates a wrong answer.

Rows of a cluster depend on each other. The test then uses the effective number of rows of Korn and
Graubard, as the intervals of all scores do.
"""

from __future__ import annotations

import math
import operator
from bisect import bisect_left
from collections.abc import Hashable, Iterator, Sequence
from itertools import count

import numpy as np
from scipy.special import betainc
from sklearn.linear_model import LogisticRegression

from tunesmith.statistics.sample import build_sample, effective_size
from tunesmith_evidence.review.policy import ReviewPolicy
from tunesmith_evidence.review.scores import NEVER

__all__ = ["choose_policy", "count_rows_needed"]

RISK = 0.05
"""Largest probability, over validation rows, that the precision is below the required one."""
FIRST_SHARE = 1 / 5
STEPS = 100
"""Maximum number of thresholds to test."""
CURVE_POINTS = 50


def choose_policy(
    scores: Sequence[float],
    right: Sequence[bool],
    groups: Sequence[Hashable | None],
    precision: float,
) -> ReviewPolicy:
    """Choose the policy of a model from its validation rows, whose order does not matter.

    Args:
        scores: how sure the model is about each answer.
        right: True for each right answer.
        groups: the cluster of each row; None: the row is its own.
        precision: share of automated answers that must be right.
    """
    order = sorted(range(len(scores)), key=lambda row: (-scores[row], right[row], str(groups[row])))
    scores, right = [scores[row] for row in order], [right[row] for row in order]
    groups = [groups[row] for row in order]
    chosen = None
    for threshold, above in _list_thresholds(scores, groups, precision):
        if not _is_shown(right[:above], groups[:above], precision):
            break
        chosen = threshold
    slope, intercept = calibrate(scores, right)
    totals, step = np.cumsum(right), -(-len(scores) // CURVE_POINTS)
    return ReviewPolicy(
        precision=precision,
        threshold=chosen,
        slope=slope,
        intercept=intercept,
        rows=len(scores),
        rows_needed=count_rows_needed(precision),
        curve=[
            (place / len(scores), float(totals[place - 1] / place))
            for place in range(step, 1 + len(scores), step)
        ],
    )


def count_rows_needed(precision: float, wrong: int = 0) -> int:
    """Return the fewest rows that show the precision although some answers are wrong."""
    return next(n for n in count(wrong + 1) if _p_value(n - wrong, n, precision) <= RISK)


def calibrate(scores: Sequence[float], right: Sequence[bool]) -> tuple[float, float]:
    """Fit the slope and intercept of a logistic curve, as in Platt (2000), section 2.2.

    Its smoothed targets and its two parameters keep it from overfitting few rows. An isotonic curve
    is not used: it needs about 1,000 rows, and answers with unequal scores can get equal
    confidences. A negative slope becomes 0, as if all scores were equal.
    """
    rows = [pair for pair in zip(scores, right, strict=True) if pair[0] > NEVER]
    wins = sum(is_right for _, is_right in rows)
    high, low = (wins + 1) / (wins + 2), 1 / (len(rows) - wins + 2)
    constant = (wins + 1) / (len(rows) + 2)
    slope, intercept = 0.0, math.log(constant / (1 - constant))
    if len({score for score, _ in rows}) < 2:
        return slope, intercept
    targets = np.array([high if is_right else low for _, is_right in rows])
    values = np.array([score for score, _ in rows])[:, None]
    center, scale = float(values.mean()), float(values.std())
    model = LogisticRegression(C=1e6, solver="newton-cholesky").fit(
        np.vstack([(values - center) / scale] * 2),
        np.repeat([1, 0], len(rows)),
        sample_weight=np.concatenate([targets, 1 - targets]),
    )
    if model.coef_[0, 0] <= 0:
        return slope, intercept
    slope = float(model.coef_[0, 0]) / scale
    return slope, float(model.intercept_[0]) - slope * center


def _list_thresholds(
    scores: Sequence[float], groups: Sequence[Hashable | None], precision: float
) -> Iterator[tuple[float, int]]:
    """Yield thresholds from high to low, each with the number of rows above it.

    Args:
        scores: the scores in descending order.
        groups: the clusters, which make the sequence start later.
        precision: the required precision.
    """
    total, tolerant = len(scores), count_rows_needed(precision, 1)
    first, step, is_late = math.ceil(FIRST_SHARE * total), max(1, total // STEPS), False
    for place in (*range(first, total, step), total):
        threshold = scores[place] if place < total else NEVER
        above = bisect_left(scores, -threshold, key=operator.neg)
        if not above:
            continue
        # If all answers of a cluster are equally right, this is the number of independent rows.
        is_late = is_late or _count_units(groups[:above]) >= tolerant or place == total
        if is_late:
            yield threshold, above


def _count_units(groups: Sequence[Hashable | None]) -> float:
    return build_sample([1.0] * len(groups), None, groups).effective_units


def _is_shown(right: Sequence[bool], groups: Sequence[Hashable | None], precision: float) -> bool:
    sample = build_sample([float(is_right) for is_right in right], None, groups)
    rows = effective_size(sample)
    return _p_value(sample.value * rows, rows, precision) <= RISK


def _p_value(right: float, rows: float, precision: float) -> float:
    """Return the probability of at least so many right answers if the precision is too low."""
    return float(betainc(right, rows - right + 1, precision)) if right > 0 else 1.0

"""Calibrate confidences on validation rows, and choose the threshold of a review policy.

The threshold comes from fixed-sequence testing (Angelopoulos et al. 2021, *Learn then Test*,
section 3). The validation rows are ordered by score, and thresholds are tested from high to low.
The null hypothesis of each test is that the precision above the threshold is too low. The exact
binomial test, the dual of the Clopper-Pearson interval, decides. The first failure ends the
sequence, so the levels need no correction for the number of tests.

The number of rows above each threshold is fixed in advance. These rows are therefore an independent
sample of all requests above it, and the first threshold with a precision that is too low passes
with a probability of at most 5 %. This holds if the precision falls along the sequence.

A sequence that started at the first row would fail at once, because a few right answers are too
little evidence. It starts at a fifth of the rows, or later where the test tolerates a wrong answer.
Rows of a cluster depend on each other, so the test uses their effective number (Korn and Graubard
1998).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Hashable, Sequence
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
FIRST_SHARE, STEPS = 1 / 5, 100


def choose_policy(
    scores: Sequence[float],
    right: Sequence[bool],
    groups: Sequence[Hashable | None],
    precision: float,
) -> ReviewPolicy:
    """Choose the policy of a model from its validation rows, whose order does not matter.

    A row's group names its cluster. A row without a group is independent.
    """
    rows = sorted(zip(scores, right, groups, strict=True), key=lambda r: (-r[0], r[1], str(r[2])))
    slope, intercept = calibrate([row[:2] for row in rows if row[0] > NEVER])
    return ReviewPolicy(
        precision=precision,
        threshold=_choose_threshold(rows, precision),
        slope=slope,
        intercept=intercept,
        rows=len(rows),
    )


def count_rows_needed(precision: float, wrong: int = 0) -> int:
    """Return how many independent rows show the precision despite this many wrong answers."""
    return next(n for n in count(wrong + 1) if _p_value(n - wrong, n, precision) <= RISK)


def calibrate(rows: Sequence[tuple[float, bool]]) -> tuple[float, float]:
    """Fit the slope and intercept of a logistic curve to scores, as in Platt (2000), section 2.2.

    The smoothed targets and the two parameters do not overfit small samples, and the curve keeps
    the order of the scores. A negative slope becomes 0, as if all scores were equal.
    """
    wins = sum(right for _, right in rows)
    high, low = (wins + 1) / (wins + 2), 1 / (len(rows) - wins + 2)
    constant = 0.0, math.log((wins + 1) / (len(rows) - wins + 1))
    values = np.array([score for score, _ in rows])
    if len(set(values.tolist())) < 2:
        return constant
    targets = np.array([high if right else low for _, right in rows])
    center, scale = float(values.mean()), float(values.std())
    model = LogisticRegression(C=1e6, solver="newton-cholesky").fit(
        np.tile((values - center) / scale, 2)[:, None],
        np.repeat([1, 0], len(rows)),
        sample_weight=np.concatenate([targets, 1 - targets]),
    )
    slope = float(model.coef_[0, 0]) / scale
    return (slope, float(model.intercept_[0]) - slope * center) if slope > 0 else constant


def _choose_threshold(
    rows: Sequence[tuple[float, bool, Hashable | None]], precision: float
) -> float | None:
    """Return the lowest threshold that passes its test, for rows with descending scores, or None.

    Thresholds are tested in sequence, from high to low, up to the first failure.
    """
    chosen, has_started, tolerant = None, False, count_rows_needed(precision, 1)
    descending = [-score for score, *_ in rows]
    places = range(math.ceil(FIRST_SHARE * len(rows)), len(rows), max(1, len(rows) // STEPS))
    for threshold in (*(rows[place][0] for place in places), NEVER):
        above = rows[: bisect_left(descending, -threshold)]
        if not above:
            continue
        sample = build_sample([float(r[1]) for r in above], None, [r[2] for r in above])
        # With equal answers in each cluster, the effective number of rows is that of the clusters.
        has_started = has_started or threshold == NEVER or sample.effective_units >= tolerant
        size = effective_size(sample)
        if has_started and _p_value(sample.value * size, size, precision) > RISK:
            break
        chosen = threshold if has_started else None
    return chosen


def _p_value(right: float, rows: float, precision: float) -> float:
    """Return the probability of at least this many right answers if the precision is too low."""
    return float(betainc(right, rows - right + 1, precision)) if right > 0 else 1.0

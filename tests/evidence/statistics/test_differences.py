"""Differences per record, their shares, and root finding."""

from __future__ import annotations

import math
import random

import pytest

from tunesmith_evidence.statistics import paired_difference, paired_p_value
from tunesmith_evidence.statistics.bisection import bisect
from tunesmith_evidence.statistics.differences import compute_share, paired_differences


def test_differences_are_tuned_minus_base() -> None:
    assert paired_differences([0.0, 1.0, 2.5], [1.0, 1.0, 0.5]) == [1.0, 0.0, -2.0]


def test_the_share_is_weighted() -> None:
    assert compute_share([1.0, 0.0, 1.0, -1.0], None, 1.0) == 0.5
    assert compute_share([1.0, 0.0, 1.0, -1.0], [1, 2, 2, 5], 1.0) == pytest.approx(0.3)


def test_bisection_finds_where_a_condition_begins_to_hold() -> None:
    assert bisect(lambda x: x * x >= 2, 0.0, 2.0) == pytest.approx(math.sqrt(2), abs=1e-12)
    assert bisect(lambda x: True, 1.0, 2.0) == pytest.approx(1.0, abs=1e-12)


def test_few_differences_are_seldom_called_none() -> None:
    """The tuned model is better by 0.02 on average, in rows that a sample may lack altogether.

    A bootstrap that knows the seen differences only says "less than 0.02" in 10 % of these samples.
    """
    rng, wrong = random.Random(5), 0
    for _ in range(200):
        draws = [rng.random() for _ in range(40)]
        base = [0.75 * (0.047 <= draw < 0.067) for draw in draws]
        tuned = [0.75 * (draw < 0.047) for draw in draws]
        wrong += paired_difference(base, tuned, bounds=(0, 1)).high < 0.02
    assert wrong <= 10


def test_records_without_weight_change_no_p_value() -> None:
    base, tuned = [0.0] * 13, [1.0] * 13
    weights = [1.0] * 3 + [0.0] * 10
    assert paired_p_value(base, tuned, weights) == paired_p_value(base[:3], tuned[:3]) == 0.25


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e9])
def test_differences_that_rounding_alone_tells_apart_are_equal(scale: float) -> None:
    """Else the interval of equal differences has no width, instead of the widest."""
    base = [scale * value / 10 for value in range(1, 9)] * 3
    tuned = [scale * value / 10 for value in range(2, 10)] * 3
    found = paired_difference(base, tuned, bounds=(0.0, scale))
    exact = paired_difference([0.0] * 24, [scale * 0.1] * 24, bounds=(0.0, scale))
    assert (found.value, found.low, found.high) == pytest.approx(
        (exact.value, exact.low, exact.high), rel=1e-9
    )
    assert found.low < 0

"""Intervals over rows and seeds: known cases, and coverage of simulated experiments."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from tunesmith_synthetic.interval import compare_over_rows_and_seeds


def no_groups(count: int) -> list[None]:
    return [None] * count


def test_without_a_spread_of_seeds_it_is_the_interval_of_the_rows() -> None:
    rows = np.random.default_rng(0).normal(0.1, 1.0, 50)
    found = compare_over_rows_and_seeds(np.array([rows] * 3), no_groups(50))
    expected = stats.t.interval(0.95, 49, rows.mean(), stats.sem(rows))
    assert (found.low, found.high) == pytest.approx(expected) and found.units == 50


def test_without_a_spread_of_rows_it_is_the_interval_of_the_seeds() -> None:
    seeds = np.array([0.1, 0.3, 0.35, 0.2])
    found = compare_over_rows_and_seeds(np.repeat(seeds[:, None], 30, axis=1), no_groups(30))
    expected = stats.t.interval(0.95, 3, seeds.mean(), stats.sem(seeds))
    assert (found.low, found.high) == pytest.approx(expected)


def test_rows_of_a_group_are_one_unit() -> None:
    rng = np.random.default_rng(1)
    units = rng.normal(size=(3, 20))
    found = compare_over_rows_and_seeds(np.repeat(units, 4, axis=1), [n // 4 for n in range(80)])
    alone = compare_over_rows_and_seeds(units, no_groups(20))
    assert (found.value, found.low, found.high) == pytest.approx(
        (alone.value, alone.low, alone.high)
    )


def test_the_order_of_rows_and_seeds_does_not_matter() -> None:
    rng = np.random.default_rng(2)
    table, groups = rng.normal(size=(4, 30)), [n // 3 for n in range(30)]
    rows, seeds = rng.permutation(30), rng.permutation(4)
    found = compare_over_rows_and_seeds(table[seeds][:, rows], [groups[r] for r in rows])
    first = compare_over_rows_and_seeds(table, groups)
    assert (found.low, found.high) == pytest.approx((first.low, first.high))


def test_equal_arms_have_no_difference_and_one_row_says_nothing() -> None:
    same = compare_over_rows_and_seeds(np.zeros((3, 20)), no_groups(20))
    assert same.value == 0 and same.low == -same.high and 0.1 < same.high < 0.3
    assert compare_over_rows_and_seeds(np.ones((3, 1)), [None]).high == math.inf


@pytest.mark.parametrize("spread", [(1.0, 0.0), (0.0, 0.1), (1.0, 0.1), (0.3, 0.3)])
def test_it_covers_the_true_difference(spread: tuple[float, float]) -> None:
    """In at least 93 % of 600 experiments with random rows and three random seeds."""
    rng, covered = np.random.default_rng(3), 0
    for _ in range(600):
        rows, seeds = rng.normal(0, spread[0], 80), rng.normal(0, spread[1], 3)
        table = 0.2 + rows + seeds[:, None] + rng.normal(0, 0.5, (3, 80))
        found = compare_over_rows_and_seeds(table, no_groups(80))
        covered += found.low <= 0.2 <= found.high
    assert covered >= 0.93 * 600


@pytest.mark.parametrize(("rows", "is_shown"), [(2, False), (3, False), (6, True)])
def test_few_rows_that_agree_show_little(rows: int, is_shown: bool) -> None:
    """Every row improved with every seed, so the spread is 0. It is no proof with two rows."""
    found = compare_over_rows_and_seeds(np.ones((3, rows)), no_groups(rows), bounds=(0, 1))
    assert found.value == 1 and (found.low > 0) == is_shown and found.low < 0.5


def test_an_effect_of_zero_is_rarely_shown_by_few_rows() -> None:
    """Right or wrong answers of 5 rows; both arms are right in half of them."""
    rng, shown = np.random.default_rng(4), 0
    for _ in range(400):
        before, after = (rng.random((3, 5)) < rng.random(5) for _ in "ab")
        table = after.astype(float) - before
        shown += compare_over_rows_and_seeds(table, no_groups(5), bounds=(0, 1)).low > 0
    assert shown <= 0.05 * 400


def test_weights_count_as_so_many_rows() -> None:
    table = np.random.default_rng(5).normal(size=(3, 40))
    weights, groups = [1.0 + n % 3 for n in range(40)], [n // 2 for n in range(40)]
    copies = np.repeat(np.arange(40), [int(weight) for weight in weights])
    found = compare_over_rows_and_seeds(table, groups, weights=weights)
    repeated = compare_over_rows_and_seeds(table[:, copies], [groups[n] for n in copies])
    assert (found.value, found.low, found.high) == pytest.approx(
        (repeated.value, repeated.low, repeated.high)
    )

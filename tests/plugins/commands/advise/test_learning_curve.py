"""Learning curves are extrapolated where the errors follow a power law, and else not."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tunesmith_plugins.commands.advise.learning_curve import average_resamples, extrapolate

ROWS = (100, 200, 400)


def binary(shares: tuple[float, ...], seed: int = 0, count: int = 400) -> list[list[float]]:
    draws = np.random.default_rng(seed).random(count)
    return [[float(draw < share) for draw in draws] for share in shares]


def test_an_exact_power_law() -> None:
    """Error 4 * n ** -0.5 for every row, so that the resamples agree."""
    errors = [[4 * n**-0.5] * 50 for n in ROWS]
    found = extrapolate(ROWS, errors, 1600)
    assert found.error == pytest.approx(0.1) and found.exponent == pytest.approx(0.5)
    assert found.interval() == pytest.approx((0.1, 0.1))


def test_the_interval_contains_the_truth_about_as_often_as_it_says() -> None:
    truth = tuple(4 * n**-0.5 for n in ROWS)
    hits = 0
    for seed in range(60):
        low, high = extrapolate(ROWS, binary(truth, seed), 1000).interval()
        hits += low <= 4 * 1000**-0.5 <= high
    assert hits >= 52


@pytest.mark.parametrize(
    ("rows", "shares", "reason"),
    [
        ((100, 200), (0.4, 0.3), "fewer than 3"),
        (ROWS, (0.2, 0.3, 0.4), "did not reduce"),
        (ROWS, (0.3, 0.3, 0.2999), "did not reduce|too little"),
    ],
)
def test_what_cannot_be_extrapolated(
    rows: tuple[int, ...], shares: tuple[float, ...], reason: str
) -> None:
    assert re.search(reason, extrapolate(rows, binary(shares), 1000).reason)


@pytest.mark.parametrize("seed", range(20))
def test_a_forecast_of_equal_probes_equals_them(seed: int) -> None:
    """Of pilots that differ by next to nothing, on rows that weigh unequally."""
    draws = np.random.default_rng(seed)
    errors = draws.integers(0, 2, 60) if seed % 2 else draws.gamma(2.0, size=60)
    weights = draws.integers(1, 500, 60)
    mean = float((weights * errors).sum() / weights.sum())
    pilots = [[(1 - 1e-9 * n) * error for error in errors] for n in range(3)]
    found = extrapolate(ROWS, pilots, 1000, weights.tolist())
    assert found.error == pytest.approx(mean, rel=1e-6)
    low, high = found.interval()
    assert low < mean < high


def test_no_wrong_answer_counts_as_half_of_one() -> None:
    shares = [[float(row < wrong) for row in range(50)] for wrong in (20, 5, 0)]
    found = extrapolate(ROWS, shares, 400)
    assert found.error < 0.02
    assert average_resamples(shares[0])[0] == 0.4


def test_resamples_weigh_rows_and_draw_groups_whole() -> None:
    values, weights = [0.0, 0.0, 1.0, 1.0], [3.0, 1.0, 2.0, 2.0]
    found = average_resamples(values, weights, ["a", "a", "b", "b"])
    assert found[0] == 0.5 and set(found[1:]) == {0.0, 0.5, 1.0}
    alone = average_resamples(values, weights)
    assert len(set(alone[1:])) > 3 and alone[0] == 0.5
    assert (average_resamples(values, weights) == alone).all() and alone.shape == (2001,)
    assert (average_resamples(values, weights, [None] * 4) == alone).all()


def test_one_row_or_group_has_no_interval() -> None:
    errors = [[1.0, 1.0, 0.0, 1.0], [1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 1.0]]
    for groups, shown in ((["a"] * 4, errors), (None, [row[:1] for row in errors])):
        found = extrapolate([10, 20, 40], shown, 100, groups=groups)
        assert found.reason == "there is only one test row or group"

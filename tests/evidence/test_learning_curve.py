"""Learning curves are extrapolated where the errors follow a power law, and else not."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tunesmith_evidence.learning_curve import extrapolate, resample

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


def test_resamples_are_the_same_for_a_seed() -> None:
    assert (resample(20, 3) == resample(20, 3)).all() and resample(20).shape == (2000, 20)

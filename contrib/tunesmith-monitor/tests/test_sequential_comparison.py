"""The sequential comparison: errors at every look, power, and users with several requests."""

from __future__ import annotations

import numpy as np
import pytest

from tunesmith_monitor.sequential_comparison import BETS, SequentialComparison


def simulate(rate_a: float, rate_b: float, tests: int, users: int, seed: int = 0) -> np.ndarray:
    """Return the signed number of users at the decision of each test; 0: none.

    All tests are computed at once, as :class:`SequentialComparison` computes one of them.
    """
    rng = np.random.default_rng(seed)
    log_SK = np.zeros((2, tests, len(BETS)))
    total, decided = np.full(tests, 0.5), np.zeros(tests, int)
    for user in range(1, users + 1):
        second = rng.random(tests) < 0.5
        outcome = (rng.random(tests) < np.where(second, rate_b, rate_a)).astype(float)
        payoff = BETS * 0.5 * ((outcome - total / user) * np.where(second, 2, -2))[:, None]
        log_SK += np.log1p(np.stack([payoff, -payoff]))
        better, worse = np.exp(log_SK).mean(axis=2) >= 40
        new = decided == 0
        decided[new & better], decided[new & worse & ~better] = user, -user
        total += outcome
    return decided


def test_the_type_1_error_holds_at_every_look() -> None:
    for rate in (0.5, 0.9):
        decided = simulate(rate, rate, tests=1_000, users=2_000)
        assert 0 < (decided != 0).mean() <= 0.05


def test_a_difference_is_found_in_the_right_direction() -> None:
    decided = simulate(0.7, 0.8, tests=100, users=3_000)
    assert (decided > 0).mean() > 0.9 and not (decided < 0).any()


def test_it_decides_as_the_simulation_does() -> None:
    rng = np.random.default_rng(5)
    expected = simulate(0.3, 0.6, tests=1, users=2_000, seed=5)[0]
    comparison = SequentialComparison()
    for _ in range(expected):
        assert comparison.decision == "go on"
        second = rng.random(1)[0] < 0.5
        outcome = rng.random(1)[0] < (0.6 if second else 0.3)
        comparison.add(bool(second), float(outcome))
    assert expected > 0 and comparison.decision == "better"
    before = comparison.decision
    assert comparison.add(False, 1.0) == before, "a decision is final"


def test_counting_every_request_of_a_user_would_break_the_guarantee() -> None:
    """Users differ, and a user keeps the model: a later outcome has a known assignment."""

    def decides(seed: int, per_user: int) -> bool:
        rng, comparison = np.random.default_rng(seed), SequentialComparison()
        for _ in range(60):
            second, skill = rng.random() < 0.5, float(rng.random() < 0.5)
            for _ in range(per_user):
                comparison.add(bool(second), skill)
        return comparison.decision != "go on"

    assert np.mean([decides(seed, 1) for seed in range(60)]) <= 0.1
    assert np.mean([decides(seed, 30) for seed in range(60)]) > 0.5


def test_means_and_unequal_shares() -> None:
    comparison = SequentialComparison(share=0.1)
    assert all(np.isnan(comparison.means))
    for n in range(400):
        comparison.add(n % 10 == 0, 1.0 if n % 10 else 0.5)
    assert comparison.means == pytest.approx((1.0, 0.5))
    assert all(np.isfinite(comparison.evidence)) and comparison.decision == "worse"

"""Thresholds that hold what they promise, and calibrated confidences."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from review_worlds import World, simulate, simulate_without_signal
from scipy.optimize import minimize
from scipy.stats import binom

from tunesmith_evidence.review.choose import calibrate, choose_policy, count_rows_needed
from tunesmith_evidence.review.policy import ReviewPolicy
from tunesmith_evidence.review.scores import NEVER

ROWS = st.lists(st.tuples(st.integers(-3, 3), st.booleans(), st.sampled_from([None, "a", "b"])))


def choose(
    scores: list[float], right: list[bool], precision: float, groups: list[str] | None = None
) -> ReviewPolicy:
    return choose_policy(scores, right, groups or [None] * len(scores), precision)


@pytest.mark.parametrize(("precision", "wrong"), [(0.9, 0), (0.98, 0), (0.98, 1), (0.995, 3)])
def test_rows_needed_are_those_of_the_binomial_distribution(precision: float, wrong: int) -> None:
    needed = count_rows_needed(precision, wrong)
    tails = [binom.sf(n - wrong - 1, n, precision) for n in (needed - 1, needed)]
    assert tails[1] <= 0.05 < tails[0]


def test_everything_is_automated_if_enough_rows_are_right() -> None:
    rows = count_rows_needed(0.98)
    assert choose([0.0] * rows, [True] * rows, 0.98).threshold == NEVER
    few = choose([0.0] * (rows - 1), [True] * (rows - 1), 0.98)
    assert few.threshold is None


def test_the_threshold_separates_sure_answers_from_others() -> None:
    scores = [*range(600), *range(1_000, 1_400)]
    right = [n % 2 == 0 for n in range(600)] + [True] * 400
    policy = choose(list(map(float, scores)), right, 0.95)
    assert policy.threshold is not None and 560 < policy.threshold < 1_000
    assert not policy.needs_review(1_000.0) and policy.needs_review(100.0)
    assert policy.confidence(1_399.0) > 0.95 and policy.confidence(0.0) < 0.6


def test_the_first_failure_ends_the_sequence() -> None:
    """All answers together would pass, but the surest ones are half wrong."""
    scores = [float(-n) for n in range(500)]
    assert choose(scores, [n % 2 == 0 or n >= 100 for n in range(500)], 0.8).threshold is None
    assert choose(scores, [n % 10 != 0 for n in range(500)], 0.8).threshold == NEVER


def test_copies_of_rows_are_no_evidence() -> None:
    """Fifty answers are too few for 95 %, however often each was asked."""
    scores, right = [float(n // 10) for n in range(500)], [True] * 500
    groups = [f"g{n // 10}" for n in range(500)]
    assert choose(scores, right, 0.95).threshold is not None
    assert choose(scores, right, 0.95, groups).threshold is None


def test_cut_answers_are_never_automated() -> None:
    policy = choose([0.0] * 400 + [NEVER] * 100, [True] * 500, 0.95)
    assert not policy.needs_review(0.0) and policy.needs_review(NEVER)
    assert policy.confidence(NEVER) == 0
    assert policy.confidence(0.0) == choose([0.0] * 400, [True] * 400, 0.95).confidence(0.0)


@settings(max_examples=20, deadline=None)
@given(ROWS, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(
    rows: list[tuple[int, bool, str | None]], shuffler: random.Random
) -> None:
    if not rows:
        return
    shuffled = rows.copy()
    shuffler.shuffle(shuffled)
    policies = [
        choose_policy([float(r[0]) for r in each], [r[1] for r in each], [r[2] for r in each], 0.6)
        for each in (rows, shuffled)
    ]
    assert policies[0] == policies[1]


def test_the_calibration_is_the_curve_of_platt() -> None:
    rng = np.random.default_rng(1)
    scores = rng.normal(3, 10, 300)
    right = rng.random(300) < 1 / (1 + np.exp(-(0.2 * scores - 0.5)))
    wins = right.sum()
    targets = np.where(right, (wins + 1) / (wins + 2), 1 / (300 - wins + 2))

    def loss(line: np.ndarray) -> float:
        logits = line[0] * scores + line[1]
        return float((np.logaddexp(0, logits) - targets * logits).sum())

    expected = minimize(loss, [0.0, 0.0]).x
    found = calibrate([*zip(scores.tolist(), right.tolist(), strict=True)])
    assert found == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("scores", "right", "confidence"),
    [
        ([1.0] * 10, [True] * 10, 11 / 12),
        ([1.0, 2.0, 3.0, 4.0], [True, True, False, False], 0.5),
    ],
    ids=["one score", "wrong way round"],
)
def test_a_useless_score_gets_the_same_confidence_everywhere(
    scores: list[float], right: list[bool], confidence: float
) -> None:
    policy = choose(scores, right, 0.9)
    assert {round(policy.confidence(s), 6) for s in (-5.0, 1.0, 9.0)} == {round(confidence, 6)}


def test_confidences_are_calibrated_on_other_rows() -> None:
    world, rng = World(1.0, 1.5, "monotone", "single rows", 0.0), np.random.default_rng(2)
    scores, right, groups = world.draw(rng, 1_000)
    policy = choose_policy(scores.tolist(), right.tolist(), groups, 0.9)
    scores, right, _ = world.draw(rng, 50_000)
    stated = np.array([policy.confidence(score) for score in scores.tolist()])
    for low in (0.0, 0.25, 0.5, 0.75):
        part = (stated >= low) & (stated < low + 0.25)
        assert abs(stated[part].mean() - right[part].mean()) < 0.05


def count_broken(seeds: range, rows: int) -> tuple[int, int]:
    """Return how often a promised precision does not hold, and how often anything is automated."""
    results = [simulate(seed, rows) for seed in seeds]
    broken = sum(actual < required for required, actual, _ in results)
    return broken, sum(coverage > 0 for *_, coverage in results)


def test_the_precision_holds_in_simulated_tasks() -> None:
    broken, automated = count_broken(range(20), 20_000)
    assert broken <= 2 and automated >= 3


def test_a_model_without_signal_automates_nothing() -> None:
    assert sum(map(simulate_without_signal, range(20))) <= 3


@pytest.mark.long
def test_the_precision_holds_in_many_simulated_tasks() -> None:
    broken, automated = count_broken(range(500), 200_000)
    print(f"{broken} of 500 promises broken; {automated} tasks with an automated share")
    assert broken <= 25 and automated >= 100
    lucky = sum(map(simulate_without_signal, range(500)))
    print(f"{lucky} of 500 models without signal got an automated share")
    assert lucky <= 35, "5 % of 500, and three standard errors"

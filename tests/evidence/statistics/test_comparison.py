"""Paired intervals, tests and power, checked against brute force and simulation."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from itertools import product
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.statistics import Interval, mean_interval
from tunesmith_evidence.statistics import (
    compare,
    minimum_detectable_difference,
    paired_difference,
    paired_p_value,
    rows_needed,
)

numbers = st.floats(min_value=-1e6, max_value=1e6, allow_nan=False).map(lambda x: round(x, 4))
quick = settings(max_examples=60, deadline=None)


def right(k: int, n: int) -> list[float]:
    return [1.0] * k + [0.0] * (n - k)


def bounds_of(interval: Interval) -> tuple[float, float]:
    return interval.low, interval.high


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused_with_their_index(bad: float) -> None:
    with pytest.raises(ValueError, match=r"tuned\[0\]"):
        paired_difference([1.0], [bad])


def test_arguments_out_of_range_are_refused() -> None:
    cases: list[tuple[str, Callable[[], object]]] = [
        ("tuned: must have one entry", lambda: paired_difference([1.0], [1.0, 2.0])),
        ("n: must be", lambda: minimum_detectable_difference(0)),
        ("power", lambda: minimum_detectable_difference(9, power=1.0)),
        ("out of range", lambda: minimum_detectable_difference(9, spread=-1.0)),
        ("out of range", lambda: minimum_detectable_difference(9, discordant=1.5)),
        ("out of range", lambda: rows_needed(0, 1.0, 1.0)),
        ("out of range", lambda: rows_needed(9, math.inf, 1.0)),
        ("out of range", lambda: rows_needed(9, 1.0, 0.0)),
    ]
    for message, call in cases:
        with pytest.raises(ValueError, match=message):
            call()


# --- two models -----------------------------------------------------------------------------


@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=30))
@quick
def test_swapping_the_models_mirrors_the_difference(pairs: list[tuple[float, float]]) -> None:
    base, tuned = [b for b, _ in pairs], [t for _, t in pairs]
    there = paired_difference(base, tuned, resamples=100)
    back = paired_difference(tuned, base, resamples=100)
    assert (back.value, back.low, back.high) == pytest.approx(
        (-there.value, -there.high, -there.low), abs=1e-6
    )
    forth = paired_p_value(base, tuned, resamples=100)
    assert forth == paired_p_value(tuned, base, resamples=100)
    assert 0 < forth <= 1


def test_the_pairing_is_used() -> None:
    rng = Random(6)
    base = [rng.gauss(0, 10) for _ in range(60)]
    tuned = [b + 0.5 + rng.gauss(0, 0.5) for b in base]
    result = compare(base, tuned, higher_is_better=True)
    assert mean_interval(base).high > mean_interval(tuned).low
    assert result.outcome == "better"
    assert result.difference.low > 0.3


@pytest.mark.parametrize(("up", "down", "same"), [(9, 1, 20), (0, 6, 3), (0, 0, 12), (15, 5, 180)])
def test_tango_against_brute_force(up: int, down: int, same: int) -> None:
    base = [0.0] * up + [1.0] * down + [1.0] * same
    tuned = [1.0] * up + [0.0] * down + [1.0] * same
    interval = paired_difference(base, tuned)
    for limit in bounds_of(interval):
        assert abs(_brute_score(up, down, up + down + same, limit)) == pytest.approx(1.96, abs=2e-3)


def _brute_score(b: int, c: int, n: int, delta: float) -> float:
    """Score of a difference, with the likeliest nuisance share found on a grid."""
    best, likeliest = -math.inf, 0.0
    for tick in range(100_001):
        q = max(0.0, -delta) + tick / 100_000 * (1 - abs(delta)) / 2
        cells = ((b, q + delta), (c, q), (n - b - c, 1 - 2 * q - delta))
        log = sum(count * math.log(max(share, 1e-300)) for count, share in cells if count)
        if log > best:
            best, likeliest = log, q
    return (b - c - n * delta) / math.sqrt(n * (2 * likeliest + delta - delta * delta))


@pytest.mark.parametrize(
    ("up", "down", "p"),  # scipy.stats.binomtest(up, up + down).pvalue
    [
        (9, 1, 0.021484375),
        (15, 5, 0.04138946533203125),
        (0, 6, 0.03125),
        (130, 90, 0.008405451752681935),
        (3, 3, 1.0),
        (0, 0, 1.0),
    ],
)
def test_mcnemar_is_exact(up: int, down: int, p: float) -> None:
    base = [0.0] * up + [1.0] * down + [1.0, 0.0]
    tuned = [1.0] * up + [0.0] * down + [1.0, 0.0]
    assert paired_p_value(base, tuned) == pytest.approx(p, rel=1e-12)


def test_mcnemar_survives_thousands() -> None:
    started = time.process_time()
    p = paired_p_value([0.0] * 10_000, [1.0] * 9_000 + [0.0] * 1_000)
    assert 0 < p < 1e-300
    assert time.process_time() - started < 1


def test_sign_flips_are_exact_for_few() -> None:
    differences = [0.3, -0.1, 0.4, 0.2, 0.25, -0.05, 0.6, 0.1]
    # scipy.stats.permutation_test(..., permutation_type="samples", n_resamples=1e9)
    assert paired_p_value([0.0] * 8, differences) == pytest.approx(0.046875)
    weights = [1, 2, 3, 1, 2, 3, 1, 2]
    products = [w * d for w, d in zip(weights, differences, strict=True)]
    patterns = list(product((-1, 1), repeat=8))
    extreme = sum(
        abs(sum(s * p for s, p in zip(signs, products, strict=True))) >= sum(products) - 1e-9
        for signs in patterns
    )
    expected = extreme / len(patterns)
    assert paired_p_value([0.0] * 8, differences, weights) == pytest.approx(expected)


def test_sampled_sign_flips_approximate_the_exact_p_value() -> None:
    rng = Random(8)
    differences = [rng.gauss(0.3, 1) for _ in range(17)]
    sums = [0.0]
    for d in differences:
        sums = [s + d for s in sums] + [s - d for s in sums]
    exact = sum(abs(s) >= abs(sum(differences)) - 1e-9 for s in sums) / len(sums)
    drawn = paired_p_value([0.0] * 17, differences, resamples=20_000)
    assert drawn == pytest.approx(exact, abs=4 * math.sqrt(exact / 20_000))


def test_a_sampled_p_value_is_never_zero() -> None:
    assert paired_p_value([0.0] * 60, [1.5] * 60) == 1 / 5_000


def test_groups_flip_together() -> None:
    differences = [0.3, 0.2, 0.4, 0.25, 0.1, 0.5]
    repeated = paired_p_value([0.0] * 60, differences * 10, groups=list("abcdef") * 10)
    assert repeated == pytest.approx(paired_p_value([0.0] * 6, differences)) == 2 / 64
    binary = paired_p_value([0.0] * 60, [1.0] * 60, groups=list("abcdef") * 10)
    assert binary == 2 / 64


def test_no_change_is_unclear() -> None:
    rng = Random(9)
    for values in ([rng.gauss(2, 1) for _ in range(30)], right(12, 30), [0.0] * 30):
        result = compare(values, values, higher_is_better=False)
        assert (result.outcome, result.p_value, result.difference.value) == ("unclear", 1.0, 0.0)


def test_the_outcome_follows_the_direction() -> None:
    base, tuned = right(20, 100), right(60, 100)
    assert compare(base, tuned, higher_is_better=True).outcome == "better"
    assert compare(base, tuned, higher_is_better=False).outcome == "worse"
    assert compare(tuned, base, higher_is_better=True).outcome == "worse"
    assert compare(tuned, base, higher_is_better=False).outcome == "better"


def test_a_constant_gain_on_three_records_is_unclear() -> None:
    result = compare([2.0] * 3, [1.0] * 3, higher_is_better=False)
    assert result.p_value == 0.25
    assert result.outcome == "unclear"
    assert compare([2.0], [1.0], higher_is_better=False).outcome == "unclear"


def test_same_seed_same_numbers_other_seed_others() -> None:
    rng = Random(10)
    base = [rng.gauss(0, 1) for _ in range(50)]
    tuned = [b + rng.gauss(0.2, 1) for b in base]
    first = compare(base, tuned, True, seed=1)
    assert compare(base, tuned, True, seed=1) == first
    assert compare(base, tuned, True, seed=2).difference.low != first.difference.low


# --- power ----------------------------------------------------------------------------------


def test_minimum_detectable_for_means() -> None:
    # the textbook 2.8 standard errors, from (1.96 + 0.84) in the limit
    assert minimum_detectable_difference(10_000, spread=2.0) == pytest.approx(
        2.8016 * 2 / 100, rel=1e-3
    )
    assert minimum_detectable_difference(1, spread=2.0) == math.inf
    sizes = [minimum_detectable_difference(n, spread=1.0) for n in range(2, 60)]
    assert sizes == sorted(sizes, reverse=True)


def test_minimum_detectable_for_shares() -> None:
    assert (
        minimum_detectable_difference(5) == math.inf
    )  # six changes in one direction are the least
    assert minimum_detectable_difference(6) == pytest.approx(0.8 ** (1 / 6))
    assert minimum_detectable_difference(200, discordant=0.3) > minimum_detectable_difference(
        200, discordant=0.1
    )


@pytest.mark.parametrize(("n", "discordant"), [(60, 0.4), (200, 0.2), (500, 0.1)])
def test_the_detectable_share_is_detected_in_four_of_five(n: int, discordant: float) -> None:
    delta = minimum_detectable_difference(n, discordant=discordant)
    up, rng, hits = (discordant + delta) / 2, Random(n), 0
    for _ in range(400):
        draws = [rng.random() for _ in range(n)]
        tuned = [float(x < up) for x in draws]
        base = [float(up <= x < discordant) for x in draws]
        hits += paired_p_value(base, tuned) < 0.05
    assert 0.74 <= hits / 400 <= 0.88


def test_the_detectable_mean_is_detected_in_four_of_five() -> None:
    delta, rng, hits = minimum_detectable_difference(40, spread=1.0), Random(40), 0
    for _ in range(300):
        tuned = [rng.gauss(delta, 1.0) for _ in range(40)]
        hits += paired_p_value([0.0] * 40, tuned, resamples=399) < 0.05
    assert 0.74 <= hits / 300 <= 0.87


@pytest.mark.parametrize(("up", "down"), [(0.15, 0.05), (0.3, 0.2)])
def test_the_needed_rows_decide_in_four_of_five(up: float, down: float) -> None:
    delta, spread = up - down, math.sqrt(up + down - (up - down) ** 2)
    needed = rows_needed(100, spread / 10, delta)
    # Connor 1987, for 80 % power: 7.85 (d - delta^2) / delta^2
    assert needed == pytest.approx(7.85 * spread**2 / delta**2, rel=0.01)
    rng, hits = Random(needed), 0
    for _ in range(300):
        draws = [rng.random() for _ in range(needed)]
        tuned = [float(x < up) for x in draws]
        hits += paired_difference([float(up <= x < up + down) for x in draws], tuned).low > 0
    assert 0.74 <= hits / 300 <= 0.86


def test_compare_returns_the_detectable_difference() -> None:
    assert compare(right(1, 4), right(2, 4), True).detectable == math.inf
    assert compare([1.5], [2.5], True).detectable == math.inf
    rng = Random(12)
    tuned = [rng.gauss(0, 1) for _ in range(100)]
    seen = compare([0.0] * 100, tuned, True).detectable
    assert seen == pytest.approx(0.28, rel=0.2)
    grouped = compare([0.0] * 1_000, tuned * 10, True, groups=[str(i) for i in range(100)] * 10)
    assert grouped.detectable == pytest.approx(seen, rel=1e-6)


# --- coverage: does "95 %" mean 95 % --------------------------------------------------------


def coverage(draw: object, truth: float, runs: int = 400) -> float:
    assert callable(draw)
    hits = 0
    for _ in range(runs):
        interval = draw()
        hits += interval.low <= truth <= interval.high
    return hits / runs


def test_paired_shares_cover() -> None:
    rng = Random(63)

    def draw() -> Interval:
        draws = [rng.random() for _ in range(60)]
        base = [float(x < 0.1 or x > 0.6) for x in draws]
        return paired_difference(base, [float(x > 0.35) for x in draws])

    # only base right: 0.1, only tuned right: 0.25
    assert 0.92 <= coverage(draw, 0.15) <= 0.98


def test_false_alarms_stay_below_five_percent() -> None:
    rng, alarms = Random(64), 0
    for _ in range(300):
        base = [rng.gauss(0, 1) for _ in range(30)]
        tuned = [b + rng.gauss(0, 1) for b in base]
        alarms += compare(base, tuned, True, resamples=200).outcome != "unclear"
    assert alarms / 300 <= 0.075


def test_models_that_never_differ_do_not_show_that_any_difference_would_be_found() -> None:
    scores = [n / 50 for n in range(50)]
    share = compare(scores, scores, True, bounds=(0.0, 1.0)).detectable
    assert share == compare([1.0] * 50, [1.0] * 50, True).detectable > 0.1
    assert math.isinf(compare(scores, scores, False, bounds=(0.0, math.inf)).detectable)

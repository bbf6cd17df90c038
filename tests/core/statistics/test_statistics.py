"""Intervals of a mean, checked against scipy and simulation."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.statistics import Interval, mean_interval

numbers = st.floats(min_value=-1e6, max_value=1e6, allow_nan=False).map(lambda x: round(x, 4))
lists = st.lists(numbers, min_size=1, max_size=40)
quick = settings(max_examples=60, deadline=None)


def right(k: int, n: int) -> list[float]:
    return [1.0] * k + [0.0] * (n - k)


def bounds_of(interval: Interval) -> tuple[float, float]:
    return interval.low, interval.high


# --- the mean of one model ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),  # scipy.stats.binomtest(k, n).proportion_ci(0.95, "wilson")
    [
        (0, 20, 0.0, 0.16112515805281935),
        (20, 20, 0.8388748419471808, 1.0),
        (7, 20, 0.1811918241010821, 0.5671457233147637),
        (450, 1000, 0.41941538407429674, 0.48096729177425873),
    ],
)
def test_right_wrong_values_use_wilson(k: int, n: int, low: float, high: float) -> None:
    assert bounds_of(mean_interval(right(k, n))) == pytest.approx((low, high), abs=1e-12)


def test_small_samples_use_student() -> None:
    # scipy.stats.t.interval(0.95, 4, mean, sem)
    interval = mean_interval([2.1, 3.4, 1.9, 2.8, 3.0])
    assert bounds_of(interval) == pytest.approx((1.861604414591722, 3.4183955854082773), rel=1e-3)


def test_point_value_is_token_weighted() -> None:
    assert mean_interval([1.0, 4.0], [3, 1]).value == pytest.approx(1.75)


@given(lists, st.data())
@quick
def test_weight_two_is_twice_the_record(values: list[float], data: st.DataObject) -> None:
    weights = data.draw(st.lists(st.integers(0, 3), min_size=len(values), max_size=len(values)))
    if not any(weights):
        weights[0] = 1
    repeated = [v for v, w in zip(values, weights, strict=True) for _ in range(w)]
    weighted = mean_interval(values, weights, resamples=100).value
    assert weighted == pytest.approx(mean_interval(repeated, resamples=100).value, abs=1e-9)


@given(lists)
@quick
def test_interval_holds_the_value_and_ignores_the_order(values: list[float]) -> None:
    interval = mean_interval(values, resamples=100)
    assert interval.low <= interval.value <= interval.high
    assert min(values) <= interval.value <= max(values)
    shuffled = values[:]
    Random(3).shuffle(shuffled)
    assert mean_interval(shuffled, resamples=100) == interval


@pytest.mark.parametrize("n", [4, 30, 3_000])
def test_scaling_and_shifting_carry_over(n: int) -> None:
    rng = Random(n)
    values = [rng.expovariate(1) for _ in range(n)]
    plain = mean_interval(values, resamples=200)
    moved = mean_interval([7 * v + 100 for v in values], resamples=200)
    expected = [7 * x + 100 for x in (plain.value, plain.low, plain.high)]
    assert [moved.value, moved.low, moved.high] == pytest.approx(expected, rel=1e-12)


def test_equal_weights_change_nothing() -> None:
    rng = Random(1)
    values = [rng.gauss(0, 1) for _ in range(40)]
    assert mean_interval(values, [3.0] * 40).low == pytest.approx(mean_interval(values).low)
    assert mean_interval(right(3, 9), [3.0] * 9).low == pytest.approx(
        mean_interval(right(3, 9)).low
    )


def test_groups_of_one_are_no_groups() -> None:
    rng = Random(2)
    values = [rng.gauss(0, 1) for _ in range(40)]
    named = [str(i) for i in range(40)]
    assert mean_interval(values, groups=named) == mean_interval(values)
    assert mean_interval(values, groups=[None] * 40) == mean_interval(values)


def test_copies_in_a_group_do_not_narrow_the_interval() -> None:
    rng = Random(4)
    values = [rng.gauss(0, 1) for _ in range(30)]
    honest = mean_interval(values)
    copied = mean_interval(values * 10, groups=[str(i) for i in range(30)] * 10)
    assert copied.high - copied.low == pytest.approx(honest.high - honest.low, rel=1e-6)
    fooled = mean_interval(values * 10)
    assert fooled.high - fooled.low < 0.5 * (honest.high - honest.low)


def test_right_wrong_in_groups_uses_the_effective_count() -> None:
    values = right(10, 20)
    grouped = mean_interval(values * 5, groups=[str(i) for i in range(20)] * 5)
    alone = mean_interval(values)
    assert grouped.high - grouped.low == pytest.approx(alone.high - alone.low, rel=0.08)
    all_right = mean_interval([1.0] * 50, groups=["one patient"] * 50)
    assert all_right.low == pytest.approx(mean_interval([1.0]).low)


def test_never_zero_width_for_right_wrong() -> None:
    for n in (1, 2, 10, 1_000):
        for k in (0, n):
            interval = mean_interval(right(k, n))
            assert interval.high - interval.low > 1 / (n + 4)
    weighted = mean_interval([1.0] * 9, [1, 2, 3] * 3)
    assert weighted.low < 0.75


def test_a_single_unit_has_an_unknown_interval() -> None:
    assert bounds_of(mean_interval([2.5])) == (-math.inf, math.inf)
    assert bounds_of(mean_interval([0.5], bounds=(0, 1))) == (0, 1)
    assert bounds_of(mean_interval([1.0, 2.0], groups=["a", "a"])) == (-math.inf, math.inf)
    assert mean_interval([1.0, 2.0], groups=["a", "a"]).n == 2


def test_a_constant_bounded_metric_is_not_certain() -> None:
    interval = mean_interval([0.5] * 20, bounds=(0, 1))
    assert interval.low == pytest.approx(0.5 - 0.5 * 0.16112515805281935)
    assert interval.high == pytest.approx(0.5 + 0.5 * 0.16112515805281935)
    assert bounds_of(mean_interval([2.0] * 20)) == (2.0, 2.0)


def test_bounds_hold() -> None:
    interval = mean_interval([0.0, 0.01, 0.9], bounds=(0, 1))
    assert (interval.low, interval.high) == (0.0, 1.0)


def test_the_value_of_a_record_without_weight_changes_no_interval() -> None:
    counted = mean_interval([1, 0, 1, 1, 1, 0])
    assert mean_interval([1, 0, 1, 1, 1, 0, 0.5], [1, 1, 1, 1, 1, 1, 0]) == counted


def test_records_without_weight_are_not_counted() -> None:
    assert mean_interval([1.5, 2.5, 99.0], [1, 1, 0]) == mean_interval([1.5, 2.5])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused_with_their_index(bad: float) -> None:
    with pytest.raises(ValueError, match=r"values\[2\]: must be a finite number"):
        mean_interval([1.0, 2.0, bad])
    with pytest.raises(ValueError, match=r"weights\[1\]"):
        mean_interval([1.0, 2.0], [1.0, bad])


def test_sequences_of_different_lengths_are_refused() -> None:
    cases: list[tuple[str, Callable[[], object]]] = [
        ("values: at least one", lambda: mean_interval([])),
        ("weights: must have one entry", lambda: mean_interval([1.0], [1.0, 2.0])),
        ("groups: must have one entry", lambda: mean_interval([1.0], groups=["a", "b"])),
        (r"weights\[0\]: must not be negative", lambda: mean_interval([1.0], [-1.0])),
        ("only zeros", lambda: mean_interval([1.0], [0.0])),
        ("confidence", lambda: mean_interval([1.0], confidence=95)),
        ("resamples", lambda: mean_interval([1.0], resamples=0)),
    ]
    for message, call in cases:
        with pytest.raises(ValueError, match=message):
            call()


# --- coverage: does "95 %" mean 95 % --------------------------------------------------------


def coverage(draw: object, truth: float, runs: int = 400) -> float:
    assert callable(draw)
    hits = 0
    for _ in range(runs):
        interval = draw()
        hits += interval.low <= truth <= interval.high
    return hits / runs


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.9])
def test_wilson_covers(share: float) -> None:
    rng = Random(int(share * 100))
    seen = coverage(lambda: mean_interval([float(rng.random() < share) for _ in range(60)]), share)
    assert 0.92 <= seen <= 0.98


def test_bootstrap_covers() -> None:
    rng = Random(60)
    seen = coverage(lambda: mean_interval([rng.gauss(3, 1) for _ in range(60)], resamples=400), 3.0)
    assert 0.92 <= seen <= 0.98


def test_weighted_bootstrap_covers() -> None:
    rng = Random(61)

    def draw() -> Interval:
        weights = [rng.lognormvariate(3, 0.5) for _ in range(60)]
        return mean_interval([rng.gauss(2, 1) for _ in weights], weights, resamples=400)

    assert 0.92 <= coverage(draw, 2.0) <= 0.98


@pytest.mark.parametrize("kind", ["numbers", "right or wrong"])
def test_cluster_intervals_cover(kind: str) -> None:
    rng = Random(62)
    groups = [str(i // 6) for i in range(120)]

    def draw() -> Interval:
        centres = [rng.betavariate(2, 2) for _ in range(20)]
        values = [
            float(rng.random() < centres[i // 6])
            if kind == "right or wrong"
            else centres[i // 6] + rng.gauss(0, 0.1)
            for i in range(120)
        ]
        return mean_interval(values, groups=groups, resamples=300)

    assert 0.92 <= coverage(draw, 0.5) <= 0.98


def test_work_grows_with_records_and_not_with_their_square() -> None:
    rng = Random(65)
    values = [rng.gauss(0, 1) for _ in range(10_000)]
    weights = [rng.random() for _ in values]

    def seconds(count: int) -> float:
        taken = []
        for _ in range(3):
            started = time.process_time()
            mean_interval(values[:count], weights[:count])
            taken.append(time.process_time() - started)
        return min(taken)

    assert seconds(10_000) < 40 * seconds(1_000)
    interval = mean_interval(values, weights)
    error = 1.96 / math.sqrt(10_000) * math.sqrt(4 / 3)  # weights uniform in [0, 1]
    assert interval.high - interval.low == pytest.approx(2 * error, rel=0.1)


@pytest.mark.parametrize(("share", "alike"), [(0.5, 0.5), (0.9, 0.5)])
def test_shares_in_groups_of_very_different_sizes_cover(share: float, alike: float) -> None:
    """With Kish's effective number of groups alone they covered 87 to 93 %."""
    rng = Random(66)
    a, b = share * (1 - alike) / alike, (1 - share) * (1 - alike) / alike

    def draw() -> Interval:
        values: list[float] = []
        groups: list[str] = []
        for group in range(40):
            size, mean = max(1, round(rng.lognormvariate(1.3, 1.0))), rng.betavariate(a, b)
            values += [float(rng.random() < mean) for _ in range(size)]
            groups += [str(group)] * size
        return mean_interval(values, groups=groups)

    assert 0.93 <= coverage(draw, share, runs=1_000) <= 0.975


def test_exact_coverage_of_shares() -> None:
    """Over every number of right answers, weighted by its probability."""
    for n in (60, 124):
        intervals = [mean_interval(right(k, n)) for k in range(n + 1)]
        for share in (0.5, 0.9, 0.97, 1.0):
            covered = math.fsum(
                math.comb(n, k) * share**k * (1 - share) ** (n - k)
                for k, interval in enumerate(intervals)
                if interval.low <= share <= interval.high
            )
            assert 0.93 <= covered <= (0.98 if share < 1 else 1.0), (n, share)


def test_losses_of_few_groups_have_a_longer_tail_upwards() -> None:
    """From five units on; Student's symmetric interval misses the large losses."""
    losses = [0.4, 0.5, 0.6, 0.7, 0.9, 4.0]
    found, plain = mean_interval(losses, bounds=(0.0, math.inf)), mean_interval(losses)
    assert found.high - found.value > found.value - found.low
    assert plain.high - plain.value == pytest.approx(plain.value - plain.low)
    few = mean_interval([0.4, 4.0], bounds=(0.0, math.inf))
    assert few.low == 0.0 and few.high < 30

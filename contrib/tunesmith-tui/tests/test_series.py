"""A series in bounded memory agrees with the values themselves."""

from __future__ import annotations

import math
import random
import statistics

import pytest

from tunesmith_tui.series import BUCKETS, Z_95, Bucket, Series, group_by_column


@pytest.mark.parametrize("count", [1, 7, BUCKETS, BUCKETS + 1, 5_000])
def test_the_buckets_have_the_values_of_their_steps(count: int) -> None:
    noise, series = random.Random(count), Series()
    values = {step: noise.gauss(3, 2) for step in range(1, count + 1)}
    for step, value in values.items():
        series.add(step, value)
    buckets = series.buckets()
    assert len(buckets) <= BUCKETS and sum(bucket.n for bucket in buckets) == count
    for bucket in buckets:
        own = [values[s] for s in range(bucket.step, bucket.step + series.width) if s in values]
        assert bucket.n == len(own) and bucket.mean == pytest.approx(statistics.fmean(own))
        if len(own) > 1:
            margin = Z_95 * statistics.stdev(own) / math.sqrt(len(own))
            assert bucket.margin == pytest.approx(margin)


def test_the_interval_covers_the_mean_as_often_as_it_states() -> None:
    noise, covered = random.Random(1), 0
    for _ in range(1_000):
        series = Series()
        series.width = 1_024
        for step in range(50):
            series.add(step, noise.gauss(0, 1))
        covered += abs(series.buckets()[0].mean) <= series.buckets()[0].margin
    assert 0.92 <= covered / 1_000 <= 0.97


def test_a_resumed_run_repeats_steps() -> None:
    series, plain = Series(), Series()
    for step in range(1, 31):
        series.add(step, step)
        plain.add(step, step if step <= 20 else -step)
    series.rewind(20)
    for step in range(15, 31):  # steps up to 20 are known
        series.add(step, -step)
    assert series.buckets() == plain.buckets() and series.last == plain.last == (30, -30)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300])
def test_values_that_cannot_be_drawn_are_ignored(value: float) -> None:
    series = Series()
    series.add(1, value)
    assert series.buckets() == [] and series.last is None


def test_steps_far_apart_end_in_few_buckets() -> None:
    series = Series()
    for n in range(2 * BUCKETS):
        series.add(n * 10**12, 1.0)
        assert len(series.buckets()) <= BUCKETS


def test_columns_hold_every_bucket_once() -> None:
    buckets = [Bucket(step, 2, float(step), 0.5) for step in range(10, 200, 3)]
    columns = group_by_column(buckets, 20, 10, 300)
    assert sum(bucket.n for bucket in columns.values()) == 2 * len(buckets)
    assert min(columns) >= 0 and max(columns) < 20
    assert list(columns) == sorted(columns)

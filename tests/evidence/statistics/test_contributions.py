"""Contributions of rows: their mean is the metric, and their interval covers it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.statistics import mean_interval
from tunesmith_evidence.statistics import row_contributions
from tunesmith_evidence.statistics.contributions import Matrix


def ratio(counts: Matrix) -> Matrix:
    """Return the sum of the first column by that of the second: a mean with weights."""
    return np.asarray(counts[:, 0] / counts[:, 1])


PARTS = st.lists(st.tuples(st.integers(0, 20), st.integers(1, 20)), min_size=1, max_size=30)


@given(PARTS)
def test_the_mean_is_the_metric_of_all_rows(parts: list[tuple[int, int]]) -> None:
    values = row_contributions(parts, ratio)
    assert np.mean(values) == pytest.approx(
        sum(a for a, _ in parts) / sum(b for _, b in parts), abs=1e-8
    )


@given(PARTS)
def test_the_weighted_mean_too(parts: list[tuple[int, int]]) -> None:
    weights = [1.0 + n % 3 for n in range(len(parts))]
    values = row_contributions(parts, ratio, weights)
    assert np.average(values, weights=weights) == pytest.approx(
        np.mean(row_contributions(parts, ratio))
    )


def test_of_a_mean_they_are_the_values() -> None:
    parts = [(1, 1), (0, 1), (1, 1), (1, 1)]
    assert row_contributions(parts, ratio) == (1, 0, 1, 1)


def test_the_influence_is_the_derivative() -> None:
    """Of a ratio A/B it is (a - b A/B) / mean(b), worked by hand."""
    parts = [(1, 2), (3, 4), (0, 6)]
    mean = 4 / 12
    expected = [mean + (a - b * mean) / 4 for a, b in parts]
    assert row_contributions(parts, ratio) == pytest.approx(expected, abs=1e-7)


def test_no_rows() -> None:
    assert row_contributions([], ratio) == ()


def test_the_interval_covers_the_metric_and_needs_the_contributions() -> None:
    """Of 400 samples of 80 rows, about 95 % have an interval with the true ratio."""
    rng = np.random.default_rng(7)
    covered = 0
    for _ in range(400):
        lengths = rng.integers(1, 30, size=80)
        hits = rng.binomial(lengths, 0.3 + 0.4 * (lengths > 15))
        values = row_contributions([*zip(hits.tolist(), lengths.tolist(), strict=True)], ratio)
        interval = mean_interval(values, resamples=200, bounds=(0, 1))
        sizes = np.arange(1, 30)
        true = float((sizes * (0.3 + 0.4 * (sizes > 15))).sum() / sizes.sum())
        covered += interval.low <= true <= interval.high
    assert 0.92 <= covered / 400 <= 0.98

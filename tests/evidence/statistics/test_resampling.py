"""Resampling with numpy against the standard library: the same draws, the same numbers."""

from __future__ import annotations

from random import Random

import pytest

from tunesmith.statistics import intervals
from tunesmith_evidence.statistics.resampling import bootstrap_means, draw_signed_sums


@pytest.mark.parametrize("size", [10, 57, 2_000, 2_001, 4_500])
def test_means_are_those_of_the_standard_library(size: int) -> None:
    rng = Random(size)
    units = sorted((rng.gauss(0, 1), rng.uniform(0.5, 3)) for _ in range(size))
    for seed in (0, 7):
        expected = intervals.bootstrap_means(units, 100, seed)
        assert bootstrap_means(units, 100, seed) == pytest.approx(expected, abs=1e-12)


def test_kept_draws_are_not_those_of_another_size_or_seed() -> None:
    units = [(float(n), 1.0) for n in range(20)]
    means = [bootstrap_means(units[:size], 100, seed)[0] for size in (10, 20) for seed in (0, 1)]
    assert len({*means}) == 4
    assert means[0] == bootstrap_means(units[:10], 100, 0)[0]


def test_signed_sums_take_one_entry_of_each_table() -> None:
    tables = [[float(n + 1000 * e) for n in range(256)] for e in range(3)]
    rng = Random(5)
    expected = [sum(t[b] for t, b in zip(tables, rng.randbytes(3), strict=True)) for _ in range(50)]
    assert draw_signed_sums(tables, 50, 5).tolist() == expected

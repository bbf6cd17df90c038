"""Values are reduced to independent units; quantiles are those of the distributions."""

from __future__ import annotations

import math

import pytest

from tunesmith.statistics.distributions import student_quantile
from tunesmith.statistics.sample import build_sample, effective_size


def test_records_of_a_group_are_one_unit() -> None:
    sample = build_sample([1.0, 3.0, 5.0], None, ["a", "a", None])
    assert (sample.value, sample.n, sample.units) == (3.0, 3, 2)
    assert sorted(sample.deviations) == [-2.0, 2.0] and sorted(sample.weights) == [1.0, 2.0]
    assert not sample.is_simple


def test_copies_do_not_add_to_the_effective_size() -> None:
    values, groups = [0.0, 1.0] * 50, [str(i) for i in range(100)]
    assert effective_size(build_sample(values, None, None)) == 100
    copies = build_sample(values * 4, None, groups * 4)
    assert 90 <= effective_size(copies) <= 100


@pytest.mark.parametrize(
    ("p", "df", "expected"),  # scipy.stats.t.ppf(p, df)
    [(0.975, 1, 12.7062), (0.975, 2, 4.30265), (0.975, 5, 2.57058), (0.8, 30, 0.853767)],
)
def test_quantiles_of_student(p: float, df: int, expected: float) -> None:
    assert math.isclose(student_quantile(p, df), expected, rel_tol=0.01)

"""Values are reduced to independent units; quantiles are those of the distributions."""

from __future__ import annotations

import pytest
from scipy import stats

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


@pytest.mark.parametrize("p", [0.51, 0.6, 0.8, 0.9, 0.975, 0.9975, 0.999, 0.9999, 1 - 1e-9])
def test_quantiles_of_student(p: float) -> None:
    """By an independent implementation, for few and for many degrees of freedom."""
    degrees = [*range(1, 131), 300, 10_000, 10**7]
    found = [student_quantile(p, df) for df in degrees]
    assert found == pytest.approx(stats.t.ppf(p, degrees), rel=1e-6)
    assert found == sorted(found, reverse=True)


def test_quantiles_below_the_median() -> None:
    assert student_quantile(0.5, 7) == 0.0
    for df in (1, 4, 200):
        assert student_quantile(0.1, df) == pytest.approx(-student_quantile(0.9, df), rel=1e-12)

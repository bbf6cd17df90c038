"""P-values are adjusted for the number of tests."""

from __future__ import annotations

import pytest

from tunesmith_evidence.statistics.holm import adjust_p_values


def test_the_example_of_statsmodels() -> None:
    """statsmodels.stats.multitest.multipletests(p, method="holm")[1]"""
    p_values = [0.04, 0.01, 0.03, 0.005, 0.6]
    assert adjust_p_values(p_values) == pytest.approx([0.09, 0.04, 0.09, 0.025, 0.6])


def test_adjusted_values_stay_below_one_and_in_order() -> None:
    assert adjust_p_values([0.9, 0.8]) == [1.0, 1.0]
    assert adjust_p_values([0.5]) == [0.5]
    assert adjust_p_values([]) == []

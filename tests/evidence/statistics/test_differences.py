"""Differences per record, their shares, and root finding."""

from __future__ import annotations

import math

import pytest

from tunesmith_evidence.statistics.bisection import bisect
from tunesmith_evidence.statistics.differences import compute_share, paired_differences


def test_differences_are_tuned_minus_base() -> None:
    assert paired_differences([0.0, 1.0, 2.5], [1.0, 1.0, 0.5]) == [1.0, 0.0, -2.0]


def test_the_share_is_weighted() -> None:
    assert compute_share([1.0, 0.0, 1.0, -1.0], None, 1.0) == 0.5
    assert compute_share([1.0, 0.0, 1.0, -1.0], [1, 2, 2, 5], 1.0) == pytest.approx(0.3)


def test_bisection_finds_where_a_condition_begins_to_hold() -> None:
    assert bisect(lambda x: x * x >= 2, 0.0, 2.0) == pytest.approx(math.sqrt(2), abs=1e-12)
    assert bisect(lambda x: True, 1.0, 2.0) == pytest.approx(1.0, abs=1e-12)

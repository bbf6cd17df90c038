"""The probability that a value of one sample is below one of another."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith_evidence.statistics.ranks import probability_below

SAMPLES = st.lists(st.integers(0, 5).map(float), min_size=1, max_size=12)


@given(SAMPLES, SAMPLES)
def test_it_is_the_share_of_pairs(first: list[float], second: list[float]) -> None:
    pairs = [(a < b) + 0.5 * (a == b) for a, b in itertools.product(first, second)]
    assert probability_below(first, second) == pytest.approx(sum(pairs) / len(pairs))
    assert probability_below(second, first) == pytest.approx(1 - sum(pairs) / len(pairs))


def test_an_empty_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="both samples"):
        probability_below([], [1.0])

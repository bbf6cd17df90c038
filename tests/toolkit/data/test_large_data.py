"""Large data is recognized from a sample, which is spread evenly over the records."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tunesmith.records import Completion
from tunesmith_torch.data import large_data
from tunesmith_torch.data.large_data import is_large, sample_evenly, sample_if_large

ROWS = [Completion(source=f"r:{n}", prompt="x" * (n % 10), completion="y") for n in range(5000)]
"""Rows of 2 to 11 characters and a line break."""


def test_size_is_estimated_from_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_data, "LARGE_CHARACTERS", 20_000)
    assert is_large(ROWS) and not is_large(ROWS[:1000]) and not is_large([])
    assert len(sample_if_large(ROWS)) == 1000
    assert sample_if_large(ROWS[:1000]) == ROWS[:1000]


@pytest.mark.parametrize(("items", "size"), [(0, 3), (3, 3), (2, 3), (10, 3), (1000, 7)])
def test_a_sample_is_spread_evenly(items: int, size: int) -> None:
    sample = sample_evenly(range(items), size)
    assert len(sample) == len(set(sample)) == min(items, size)
    assert sample == sorted(sample)
    if items >= size:
        gaps = {b - a for a, b in pairwise([*sample, items])}
        assert max(gaps) - min(gaps) <= 1

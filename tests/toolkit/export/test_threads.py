"""Engines use as many threads as ``OMP_NUM_THREADS`` names."""

from __future__ import annotations

import pytest

from tunesmith_torch.export.threads import count_threads


@pytest.mark.parametrize(("named", "count"), [("3", 3), ("", 0), ("many", 0)])
def test_threads_are_those_of_openmp(
    monkeypatch: pytest.MonkeyPatch, named: str, count: int
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", named)
    assert count_threads() == count

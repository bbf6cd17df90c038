"""Large files are checked in little time and memory."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.benchmarks.data_check_speed import measure

MB, SECONDS_PER_ROW = 300, 2e-4
"""Memory and CPU time beside those of 100 rows; a quiet machine takes a quarter of the time."""


@pytest.mark.long
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("rows", [100_000, 1_000_000])
def test_rows_are_checked_within_limits(tmp_path: Path, rows: int) -> None:
    small, large = measure(tmp_path, rows)
    assert large.peak_mb - small.peak_mb < MB
    assert large.cpu_seconds - small.cpu_seconds < SECONDS_PER_ROW * rows

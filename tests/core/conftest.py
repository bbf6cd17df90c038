"""Fixtures of the core's tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench import LISTENERS, RECORDERS, Bench


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A base model, data and a run file in an empty folder, without tensors."""
    RECORDERS.clear()
    LISTENERS.clear()
    return Bench(tmp_path)

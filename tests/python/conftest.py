"""Two runs of a technique without tensors, made from dictionaries."""

from __future__ import annotations

import pytest
from small_runs import tables

import tunesmith
from tunesmith import Run


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose tuned model answers every test prompt correctly."""
    folder = tmp_path_factory.mktemp("good")
    return tunesmith.run(tables(folder), out=folder / "run")


@pytest.fixture(scope="session")
def bad(good: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run on the same data whose tuned model answers no test prompt."""
    folder = tmp_path_factory.mktemp("bad")
    changed = tables(good.path.parent)
    return tunesmith.run(changed, set={"technique.generalizes": False}, out=folder / "run")

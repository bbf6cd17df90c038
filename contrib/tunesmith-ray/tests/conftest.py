"""Fixtures of every test: a tiny model, and a run on it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before Ray is imported by anybody.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
# Else anything else on this machine goes first.
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - as Ray spells it
os.environ.pop("RAY_ADDRESS", None)

pytest_plugins = ["tunesmith.testing.clean_environment", "tunesmith_torch.testing.fixtures"]

TABLE = """
[ray]
cpus = 1
grace_seconds = 60
"""


@pytest.fixture(scope="session")
def project(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run file of 40 steps and its rows."""
    from tunesmith_torch.testing.tiny_project import write_project

    folder = tmp_path_factory.mktemp("project")
    write_project(folder, tiny_model, epochs=5, batch_size=8, every=5, tables=TABLE)
    return folder

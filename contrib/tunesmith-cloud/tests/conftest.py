"""Fixtures of every test: a tiny model, and a run on it."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["tunesmith.testing.clean_environment", "tunesmith_torch.testing.fixtures"]

TABLE = """
[cloud]
memory = 2
cpus = 1
"""


@pytest.fixture(scope="session")
def project(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run file of 192 steps and its rows."""
    from tunesmith_torch.testing.tiny_project import write_project

    folder = tmp_path_factory.mktemp("project")
    write_project(folder, tiny_model, tables=TABLE)
    return folder

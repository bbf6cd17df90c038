"""Fixtures of every test: a tiny model, runs on it, and programs named like Slurm's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fake_slurm import FakeSlurm

for name in [n for n in os.environ if n.startswith(("SLURM_", "SBATCH_"))]:
    del os.environ[name]

pytest_plugins = ["tunesmith.testing.clean_environment", "tunesmith_torch.testing.fixtures"]

TABLE = """
[slurm]
mem = "1G"
time = 30
cpus_per_task = 1
"""


@pytest.fixture(scope="session")
def project(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run file of 192 steps and its rows."""
    from tunesmith_torch.testing.tiny_project import write_project

    folder = tmp_path_factory.mktemp("project")
    write_project(folder, tiny_model, tables=TABLE)
    return folder


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """Programs named like Slurm's."""
    folder = tmp_path / "slurm-programs"
    folder.mkdir()
    return FakeSlurm.install(folder, monkeypatch)

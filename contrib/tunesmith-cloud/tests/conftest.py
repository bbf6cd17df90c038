"""Fixtures of every test: a tiny model, and a run on it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before torch is imported by anybody.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
for name in [n for n in os.environ if n.startswith("TUNESMITH_")]:
    del os.environ[name]

pytest_plugins = ["tunesmith.testing.fixtures", "tunesmith_torch.testing.fixtures"]


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

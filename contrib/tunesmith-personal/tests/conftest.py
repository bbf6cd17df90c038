"""Fixtures of every test: a tiny model, and a run with twenty users."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

# Before torch is imported by anybody.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
for name in [n for n in os.environ if n.startswith("TUNESMITH_")]:
    del os.environ[name]

from people import invoke, write_run  # noqa: E402

from tunesmith_torch.testing.tiny_model import save_tiny_model  # noqa: E402

pytest_plugins = ["tunesmith.testing.fixtures", "tunesmith_torch.testing.fixtures"]


@pytest.fixture(scope="session")
def able_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose frozen head can give any token a high probability."""
    changes = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "initializer_range": 0.2,
        "tie_word_embeddings": False,
    }
    return save_tiny_model(tmp_path_factory.mktemp("able"), changes=changes)


@pytest.fixture(scope="session")
def finished(able_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run with twenty users, five of them with shuffled answers."""
    folder = tmp_path_factory.mktemp("people")
    done = invoke("run", write_run(folder, able_model), "--out", folder / "run", "-q")
    assert done.exit_code == 0, done.output
    return folder / "run"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run that a test may change."""
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"

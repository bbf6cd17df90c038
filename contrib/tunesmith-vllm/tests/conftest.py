"""Fixtures of every test: tiny models, and a stand-in for vLLM where there is none."""

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

pytest_plugins = ["tunesmith.testing.fixtures"]


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama as a hub would serve it. Read it, copy it, do not change it."""
    from small_model import save_small_model

    return save_small_model(tmp_path_factory.mktemp("tiny") / "llama")


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let processes that a test starts find the stand-in for vLLM."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent / "stand_in"))

"""Fixtures of every test: tiny models."""

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


@pytest.fixture(scope="session")
def go(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that renders conversations with a template, as Ollama does."""
    from ollama_template import build_program

    return build_program(tmp_path_factory.mktemp("go"))

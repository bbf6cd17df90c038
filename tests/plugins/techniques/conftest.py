"""A tiny model for the tests of techniques, made once for each process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith_torch.testing.tiny_model import save_tiny_model


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama as a hub would serve it. Read it, copy it, do not change it."""
    return save_tiny_model(tmp_path_factory.mktemp("tiny") / "llama")

"""Fixtures of every test: tiny models."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["tunesmith.testing.clean_environment", "tunesmith_torch.testing.fixtures"]


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    """A tiny Llama as a hub would serve it. Read it, copy it, do not change it."""
    from small_model import save_small_model

    from tunesmith_torch.testing.tiny_model import get_tiny_model_folder

    return get_tiny_model_folder(save_small_model)

"""Fixtures for pytest, on request: ``pytest_plugins = ["tunesmith_torch.testing.fixtures"]``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith_torch.testing.tiny_model import tiny_model_folder


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    """Folder of a tiny Llama with random weights, as a hub would serve it."""
    return tiny_model_folder()

"""Fixtures for pytest, on request: ``pytest_plugins = ["tunesmith_torch.testing.fixtures"]``."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    """Folder of a tiny Llama with random weights, as a hub would serve it."""
    from tunesmith_torch.testing.tiny_model import tiny_model_folder  # torch takes seconds

    return tiny_model_folder()

"""Fixtures of every test: tiny models."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["tunesmith.testing.clean_environment", "tunesmith_torch.testing.fixtures"]


@pytest.fixture(scope="session")
def go(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that renders conversations with a template, as Ollama does."""
    from ollama_template import build_program

    return build_program(tmp_path_factory.mktemp("go"))

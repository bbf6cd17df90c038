"""Fixtures of every test: tiny models, and a stand-in for vLLM where there is none."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

pytest_plugins = ["tunesmith.testing.clean_environment", "tunesmith_torch.testing.fixtures"]


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    """A tiny Llama as a hub would serve it. Read it, copy it, do not change it."""
    from small_model import save_small_model

    from tunesmith_torch.testing.tiny_model import get_tiny_model_folder

    return get_tiny_model_folder(save_small_model)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let processes that a test starts find the stand-in for vLLM."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent / "stand_in"))


PYTHONS = {"stand-in": sys.executable, "vLLM": os.environ.get("VLLM_PYTHON", "")}


@pytest.fixture(params=PYTHONS)
def python(request: pytest.FixtureRequest) -> str:
    """A Python that has vLLM, or the stand-in."""
    if request.param == "stand-in":
        request.getfixturevalue("stand_in")
    elif not PYTHONS[request.param]:
        pytest.skip("VLLM_PYTHON does not name a Python that has vLLM")
    return PYTHONS[request.param]

"""The laws that a tool already knows: who imports whom, style, types."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*command: str) -> None:
    """Run a tool at the root of the project; its output is the explanation if it objects."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-2000:]}"


def tool(name: str, module: str | None = None) -> str:
    """Where a tool of this environment is."""
    path = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if path is None or find_spec(module or name) is None:
        pytest.skip(f"{name} is not installed; pip install -e '.[dev]' brings it")
    return path


def test_who_imports_whom() -> None:
    run(tool("lint-imports", "importlinter"), "--no-cache")


def test_style() -> None:
    run(tool("ruff"), "check", "--no-cache", "core", "plugins", "tests")


def test_types() -> None:
    """Everything is typed, strictly. The cache below .mypy_cache makes the second run quick."""
    run(tool("mypy"))

"""Laws that tools check: import contracts, style and types."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*command: str) -> None:
    """Run a tool at the root of the project; its output is shown if it fails."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-2000:]}"


def tool(name: str, module: str | None = None) -> str:
    """Return the path of a tool of this environment; skip the test if it is not installed."""
    path = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if path is None or find_spec(module or name) is None:
        pytest.skip(f"{name} is not installed; pip install -e '.[dev]' installs it")
    return path


def test_import_contracts_hold() -> None:
    run(tool("lint-imports", "importlinter"), "--no-cache")


def test_ruff_finds_nothing() -> None:
    run(tool("ruff"), "check", "--no-cache", "core", "plugins", "tests")


def test_mypy_finds_nothing() -> None:
    """All code is typed strictly. The cache in .mypy_cache makes the second run fast."""
    run(tool("mypy"))

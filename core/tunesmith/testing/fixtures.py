"""Fixtures for pytest, on request: ``pytest_plugins = ["tunesmith.testing.fixtures"]``.

``records`` are eight completions, ``ngram_model`` the folder of a base model without tensors, and
``run_tunesmith`` runs the command line in an empty folder with a cache of its own.
``tunesmith_torch.testing.fixtures`` has ``tiny_model``, the folder of a tiny Llama.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tunesmith.records import Completion
from tunesmith.testing import ngram
from tunesmith.testing.examples import COMPLETIONS

RunTunesmith = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def records() -> list[Completion]:
    """Eight completions: capitals of countries."""
    return list(COMPLETIONS)


@pytest.fixture
def ngram_model(tmp_path: Path) -> Path:
    """Folder of an n-gram model, for ``[technique] use = "ngram"``."""
    return ngram.save_ngram_model(tmp_path / "ngram")


@pytest.fixture
def run_tunesmith(tmp_path: Path) -> RunTunesmith:
    """Return a function that runs ``tunesmith`` in the temporary folder of the test.

    Its arguments are those of the command line; ``plugins`` are modules that are loaded besides the
    installed ones, without being installed. The technique ``ngram`` always is.
    """

    def run(
        *arguments: str | Path, plugins: Iterable[ModuleType] = ()
    ) -> subprocess.CompletedProcess[str]:
        files = _plugin_files([ngram, *plugins], tmp_path / ".plugins")
        options = [text for file in files for text in ("--plugin", str(file))]
        return subprocess.run(
            [sys.executable, "-m", "tunesmith", *options, *map(str, arguments)],
            cwd=tmp_path,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                "TUNESMITH_CACHE": str(tmp_path / ".cache"),
                "NO_COLOR": "1",
            },
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def _plugin_files(modules: Iterable[ModuleType], folder: Path) -> Iterator[Path]:
    """Yield a file for each module that loads it as a plugin: its hooks under their names."""
    folder.mkdir(exist_ok=True)
    for module in modules:
        hooks = [name for name in vars(module) if name.startswith("tunesmith_")]
        names = ", ".join(hook for hook in hooks if callable(vars(module)[hook]))
        path = folder / f"{module.__name__.rpartition('.')[2]}.py"
        path.write_text(f"from {module.__name__} import {names}\n", encoding="utf-8")
        yield path

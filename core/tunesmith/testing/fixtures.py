"""Optional fixtures for pytest: ``pytest_plugins = ["tunesmith.testing.fixtures"]``.

* ``records`` is a list of eight completions.
* ``ngram_model`` is the folder of an n-gram base model, which has no tensors.
* ``run_tunesmith`` runs ``tunesmith`` commands in an empty folder, with a separate cache.
* ``no_network`` and ``own_cache`` keep tests from affecting the machine.

``tunesmith_torch.testing.fixtures`` has ``tiny_model``, the folder of a tiny Llama. Protect all
tests of a project with this configuration::

    [tool.pytest.ini_options]
    addopts = "-p tunesmith.testing.fixtures"
    usefixtures = ["no_network", "own_cache"]
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tunesmith.records import Completion
from tunesmith.testing import ngram
from tunesmith.testing.examples import COMPLETIONS

RunTunesmith = Callable[..., "subprocess.CompletedProcess[str]"]


_THIS_MACHINE = ("127.0.0.1", "::1", "localhost")


class NetworkUsed(RuntimeError):
    """A test that uses ``no_network`` tried to connect to another machine."""


@pytest.fixture(scope="session")
def no_network() -> Iterator[None]:
    """Refuse connections to other machines with ``NetworkUsed`` until the session ends.

    New processes can still connect, but ``HF_HUB_OFFLINE=1`` keeps them from contacting a hub.
    """
    real = socket.socket.connect, socket.socket.connect_ex

    def refuse(address: object) -> None:
        host = address[0] if isinstance(address, tuple) else None
        if host is not None and host not in _THIS_MACHINE:
            raise NetworkUsed(f"tests must not use the network, but this one connects to {address}")

    def connect(self: socket.socket, address: Any) -> None:
        refuse(address)
        return real[0](self, address)

    def connect_ex(self: socket.socket, address: Any) -> int:
        refuse(address)
        return real[1](self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect)
        patch.setattr(socket.socket, "connect_ex", connect_ex)
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


@pytest.fixture(scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Use separate cache, state and configuration folders in this session; return the cache.

    The machine's own cache, trust list and configuration have no effect and do not change.
    """
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("TUNESMITH_CACHE", str(folder))
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        patch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
        yield folder


@pytest.fixture
def records() -> list[Completion]:
    """Return eight completions: the capitals of countries."""
    return list(COMPLETIONS)


@pytest.fixture
def ngram_model(tmp_path: Path) -> Path:
    """Return the folder of an n-gram model, for ``[technique] use = "ngram"``."""
    return ngram.save_ngram_model(tmp_path / "ngram")


@pytest.fixture
def run_tunesmith(tmp_path: Path) -> RunTunesmith:
    """Return a function that runs ``tunesmith`` in the temporary folder of the test.

    It takes the arguments of the command line. ``plugins`` are modules to load as plugins without
    installing them. The ``ngram`` technique is always available.
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
    """Write a single-file plugin for each module, which loads the module; yield the file's path."""
    folder.mkdir(exist_ok=True)
    for module in modules:
        hooks = [name for name in vars(module) if name.startswith("tunesmith_")]
        names = ", ".join(hook for hook in hooks if callable(vars(module)[hook]))
        path = folder / f"{module.__name__.rpartition('.')[2]}.py"
        path.write_text(f"from {module.__name__} import {names}\n", encoding="utf-8")
        yield path

"""Fixtures of the tests of commands: the command line, with a plugin that needs no tensors."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tunesmith_cli.app import app

FAKE = Path(__file__).parents[2] / "core" / "fake_plugin.py"
WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa"]
RUN_FILE = """
[model]
base = "fake:one"
[data]
use = "lines"
train = "data.tsv"
test_size = 4
[technique]
use = "by-heart"
[[evaluators]]
use = "same"
"""
Tunesmith = Callable[..., Result]


@pytest.fixture
def tunesmith(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tunesmith:
    """The command, in this process, in a folder with a run file and data."""
    monkeypatch.chdir(tmp_path)
    for name in [*os.environ]:
        if name.startswith("TUNESMITH") and name != "TUNESMITH__RUN__SIDE_EFFECTS":
            monkeypatch.delenv(name)
    monkeypatch.setenv("TUNESMITH_PLUGINS", "fake_plugin")
    rows = [f"say {word}\tSAY {word.upper()}\n" for word in WORDS]
    (tmp_path / "data.tsv").write_text("".join(rows))
    (tmp_path / "run.toml").write_text(RUN_FILE)

    def call(*args: str | Path, input: str | None = None) -> Result:
        return CliRunner().invoke(app, ["--plugin", str(FAKE), *map(str, args)], input=input)

    return call


@pytest.fixture
def finished(tunesmith: Tunesmith, tmp_path: Path) -> Path:
    """The folder of a run that went well."""
    assert tunesmith("run", "run.toml", "--out", "done").exit_code == 0
    return tmp_path / "done"

"""A plugin from the template passes its contract test."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from tunesmith.cli.app import app
from tunesmith.errors import UsageError
from tunesmith_plugins.commands.plugin_template.write_plugin import HOOKS, write_plugin


@pytest.mark.parametrize("kind", HOOKS)
def test_a_new_plugin_passes_its_contract_test(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "tunesmith-first-word"
    written = write_plugin(folder, "first-word", kind)
    assert len(written) == 5
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rs", "tests"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder / "src"), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout
    unexpected = [
        line
        for line in result.stdout.splitlines()
        if line.startswith("SKIPPED") and "finds no models" not in line and "held-out" not in line
    ]
    assert not unexpected


def test_an_existing_folder_is_refused(tmp_path: Path) -> None:
    write_plugin(tmp_path / "x", "mine", "evaluator")
    with pytest.raises(UsageError, match="not empty"):
        write_plugin(tmp_path / "x", "mine", "evaluator")
    with pytest.raises(UsageError, match="no such kind"):
        write_plugin(tmp_path / "y", "mine", "optimizer")
    for name in ("Mine", "1st", "a_b", "", "a/b", "../x"):
        with pytest.raises(UsageError, match="names are"):
            write_plugin(tmp_path / "z", name, "evaluator")


def test_the_command_writes_a_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["plugins", "new", "mine", "--kind", "reporter"])
    assert done.exit_code == 0, done.output
    written = done.stdout.splitlines()
    assert "tunesmith-mine/src/tunesmith_mine/offer.py" in written
    assert all(Path(path).is_file() for path in written)
    assert "tunesmith plugins check mine" in done.stderr
    again = CliRunner().invoke(app, ["plugins", "new", "mine", "--kind", "reporter"])
    assert again.exit_code == 2 and "not empty" in again.stderr
    elsewhere = ["plugins", "new", "mine", "--kind", "reporter", "--out", "other", "-q"]
    done = CliRunner().invoke(app, elsewhere)
    assert done.exit_code == 0 and done.stderr == ""
    assert (tmp_path / "other" / "pyproject.toml").is_file()

"""The Python API: folders of runs."""

from __future__ import annotations

from pathlib import Path

import pytest

import tunesmith
from tunesmith import api
from tunesmith.errors import ConfigError, PluginError, UsageError
from tunesmith.storage import RunFolder

RUN_FILE = """
[run]
folder = "runs"
[model]
base = "fake:one"
[data]
use = "lines"
train = "data.tsv"
[technique]
use = "by-heart"
steps = 6
mode = "raise"
[plugins]
files = ["{plugin}"]
"""


@pytest.fixture
def failed(tmp_path: Path) -> RunFolder:
    """A run that failed at its third step."""
    plugin = Path(__file__).parent / "fake_plugin.py"
    (tmp_path / "run.toml").write_text(RUN_FILE.format(plugin=plugin), encoding="utf-8")
    lines = "".join(f"question {n}\tanswer {n}\n" for n in range(20))
    (tmp_path / "data.tsv").write_text(lines, encoding="utf-8")
    with pytest.raises(PluginError, match="is not on the device"):
        tunesmith.run(tmp_path / "run.toml", out=tmp_path / "out")
    return RunFolder(tmp_path / "out")


def replace_in(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_an_unknown_key_in_a_stored_run_file_is_named(failed: RunFolder) -> None:
    replace_in(failed.run_file, "[baselines]\n", '[baselines]\nno_such_key = "x"\n')
    with pytest.raises(ConfigError, match=r"baselines\.no_such_key: unknown key"):
        tunesmith.resume(failed.path)


def test_two_processes_with_one_out_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failed: RunFolder
) -> None:
    """The second one sees an empty folder, and finds the lock of the first one when it writes."""
    plan, _ = api.load_plan(tmp_path / "run.toml")
    out = tmp_path / "shared"
    api.create_run_folder(plan, out)
    monkeypatch.setattr(Path, "iterdir", lambda path: iter(()))
    with pytest.raises(UsageError, match="shared: exists and is not empty"):
        api.create_run_folder(plan, out)


def test_a_failed_run_is_resumed(failed: RunFolder) -> None:
    replace_in(failed.run_file, '"raise"', '"well"')
    run = tunesmith.resume(failed.path, accept_changes=True)
    assert run.report.status == "ok"
    with pytest.raises(UsageError, match="the run is finished"):
        tunesmith.resume(failed.path)

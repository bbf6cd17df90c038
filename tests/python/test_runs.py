"""Runs from Python: the same as on the command line, from a file or a dictionary."""

from __future__ import annotations

import json
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import tomli_w
from click.testing import CliRunner
from small_runs import tables

import tunesmith
from tunesmith.errors import ConfigError, PluginError, UsageError
from tunesmith.storage import RunFolder
from tunesmith_cli.app import app
from tunesmith_python.runs import MODELS, Run


def test_a_dictionary_gives_the_run_of_the_file(good: Run, tmp_path: Path) -> None:
    content = tables(good.path.parent)
    content["data"]["train"] = str(content["data"]["train"])
    (tmp_path / "run.toml").write_text(tomli_w.dumps(content), encoding="utf-8")
    command = ["run", str(tmp_path / "run.toml"), "--out", str(tmp_path / "out"), "--json"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.stderr
    printed, own = json.loads(result.stdout), good.report.to_json()
    for part in ("data", "verdict"):
        assert printed[part] == own[part]
    for first, second in zip(printed["evaluations"], own["evaluations"], strict=True):
        assert first == second


def test_set_overrides_keys_and_leaves_the_dictionary_alone(tmp_path: Path) -> None:
    content = tables(tmp_path)
    before = deepcopy(content)
    run = tunesmith.run(content, set={"technique.steps": 3}, out=tmp_path / "out")
    assert content == before
    assert run.report.training_finished[""].steps == 3
    assert run.plan.origins["technique.steps"] == "run.toml"  # the stored, resolved plan
    with pytest.raises(ConfigError, match=r"technique\.stepps: unknown key"):
        tunesmith.run(content, set={"technique.stepps": 3})


def test_relative_paths_of_a_dictionary_start_at_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = tables(tmp_path)
    content["data"]["train"] = "data.tsv"
    monkeypatch.chdir(tmp_path)
    run = tunesmith.run(content)
    assert run.path.parent == tmp_path / "runs"
    assert run.path.name.endswith(run.report.started.run[-4:])  # type: ignore[union-attr]


def test_models_answer(good: Run) -> None:
    (tuned,) = good.model().generate(["say word 3"], 20)
    assert tuned.text == "SAY WORD 3"
    (base,) = good.model("base").generate(["say word 3"], 20)
    assert base.text != tuned.text
    with pytest.raises(UsageError, match=" and ".join(MODELS)):
        good.model("best")


def test_a_run_is_opened_in_whatever_state_it_is(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="not on the device"):
        tunesmith.run(tables(tmp_path, mode="raise", steps=4), out=tmp_path / "out")
    run = tunesmith.open_run(tmp_path / "out")
    assert run.report.status == "failed"
    assert "out: FAILED" in run._repr_html_()
    with pytest.raises(UsageError, match="no trained model yet"):
        run.model()
    stored = RunFolder(run.path).run_file
    stored.write_text(stored.read_text("utf-8").replace('"raise"', '"well"'), encoding="utf-8")
    assert tunesmith.resume(run.path, accept_changes=True) == run
    assert run.report.status == "ok"
    with pytest.raises(UsageError, match="no such folder"):
        tunesmith.open_run(tmp_path / "nothing")


def test_code_of_a_foreign_folder_is_not_executed_before_it_is_trusted(
    good: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    run = tunesmith.open_run(good.path)
    assert run.report.status == "ok"
    with pytest.raises(UsageError, match="refers to code"):
        run.model()
    assert tunesmith.open_run(good.path, trust_plugins=True).model()


def test_importing_the_package_and_its_functions_imports_no_tensor_library() -> None:
    """Also after a check of a run file, which the core does without a model."""
    code = (
        "import sys, tunesmith; names = set(sys.modules)\n"
        "assert not {'pydantic', 'tunesmith.api', 'tunesmith_python'} & names, names\n"
        "tunesmith.run, tunesmith.check, tunesmith.estimate, tunesmith.evaluate, tunesmith.Run\n"
        "heavy = {'torch', 'transformers', 'peft', 'numpy', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_all_public_names_exist_and_unknown_ones_do_not() -> None:
    for name in tunesmith.__all__:
        assert getattr(tunesmith, name)
    assert tunesmith.Run is Run
    with pytest.raises(AttributeError, match="no attribute 'rn'"):
        tunesmith.rn  # noqa: B018
    stub = Path(tunesmith.__file__).with_suffix(".pyi").read_text(encoding="utf-8")
    typed = {line.rpartition(" as ")[2] for line in stub.splitlines() if " as " in line}
    assert typed == {*tunesmith.__all__}

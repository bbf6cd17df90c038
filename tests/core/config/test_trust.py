"""Code that a foreign run folder names is executed only if the user agrees."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tunesmith import api, resume
from tunesmith.config import trust
from tunesmith.config.run_file import read_run_file
from tunesmith.config.trust import (
    add_trusted_code,
    ask_on_terminal,
    find_code,
    require_trusted,
    trust_code,
    trust_file,
)
from tunesmith.errors import UsageError
from tunesmith_cli.app import app
from tunesmith_plugins.commands.runs.replay import replay_events

FAKE = Path(__file__).parents[1] / "fake_plugin.py"
RUN_FILE = f"""
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
[plugins]
files = [{json.dumps(str(FAKE))}]
"""
EVIL = "open({marker!r}, 'w').close()\nfrom tunesmith.hookspecs import hookimpl\n"


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user of their own, who has run nothing yet."""
    for name in [*os.environ]:
        if name.startswith("TUNESMITH"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("TUNESMITH_PLUGINS", "fake_plugin,evil")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "state"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """The folder of a run of this user."""
    (tmp_path / "data.tsv").write_text("".join(f"say {n}\tSAY {n}\n" for n in range(12)))
    (tmp_path / "run.toml").write_text(RUN_FILE)
    assert tunesmith("run", "run.toml", "--out", "own").exit_code == 0
    return tmp_path / "own"


@pytest.fixture
def foreign(own: Path, tmp_path: Path) -> Path:
    """The folder of a run from somebody else, with a plugin in it that leaves a trace."""
    folder = Path(shutil.copytree(own, tmp_path / "foreign"))
    (folder / "evil.py").write_text(EVIL.format(marker=str(tmp_path / "was-run")))
    path = folder / "run.toml"
    fake = json.dumps(str(FAKE))
    path.write_text(path.read_text().replace(fake, f'{fake}, "evil.py"'))
    assert "evil.py" in path.read_text()
    return folder


def tunesmith(*args: str | Path) -> Result:
    Path("pairs.jsonl").unlink(missing_ok=True)
    return CliRunner().invoke(app, [*map(str, args)])


def was_run(folder: Path) -> bool:
    marker = folder.parent / "was-run"
    found = marker.exists()
    marker.unlink(missing_ok=True)
    return found


COMMANDS: dict[str, tuple[str | Path, ...]] = {
    "report": ("report", "foreign", "--to", "jsonlines"),
    "chat": ("chat", "foreign", "--prompt", "say 3"),
    "export": ("export", "foreign", "--to", "safetensors"),
    "resume": ("resume", "foreign"),
    "annotate": ("data", "annotate", "--run", "foreign", "--out", "pairs.jsonl"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_does_not_execute_the_code_of_a_foreign_run(foreign: Path, name: str) -> None:
    done = tunesmith(*COMMANDS[name])
    assert done.exit_code == 2
    assert "refers to code" in done.stderr and str(foreign / "evil.py") in done.stderr
    assert "--trust-plugins" in done.stderr
    assert not was_run(foreign)


@pytest.mark.parametrize("name", COMMANDS)
def test_trust_plugins_executes_it_and_remembers(foreign: Path, name: str) -> None:
    tunesmith(*COMMANDS[name], "--trust-plugins")
    assert was_run(foreign)
    assert trust.TRUST_VARIABLE not in os.environ
    tunesmith(*COMMANDS[name])
    assert was_run(foreign)
    (foreign / "evil.py").write_text((foreign / "evil.py").read_text() + "x = 1\n")
    assert tunesmith(*COMMANDS[name]).exit_code == 2
    assert not was_run(foreign)


def test_commands_that_need_no_plugin_execute_none(foreign: Path) -> None:
    for args in (("report", foreign), ("report", foreign, "--json"), ("verify", foreign)):
        assert tunesmith(*args).exit_code == 0
    assert not was_run(foreign)


def test_an_own_run_is_opened_without_a_question(own: Path, tmp_path: Path) -> None:
    assert tunesmith("chat", own, "--prompt", "say 3").exit_code == 0
    moved = own.rename(tmp_path / "moved")
    assert tunesmith("report", moved, "--to", "jsonlines").exit_code == 0
    trust_file().unlink()
    assert tunesmith("chat", moved, "--prompt", "say 3").exit_code == 2


def test_the_api_refuses_too(foreign: Path) -> None:
    for use in (api.load_run, resume):
        with pytest.raises(UsageError, match="refers to code"):
            use(foreign)
    with pytest.raises(UsageError, match="refers to code"):
        replay_events(foreign, "jsonlines")
    assert not was_run(foreign)
    api.load_run(foreign, trust_plugins=True)
    assert was_run(foreign)


@pytest.mark.parametrize("answer", ["y", "n", ""])
def test_on_a_terminal_the_user_is_asked(foreign: Path, answer: str) -> None:
    tables = read_run_file(foreign / "run.toml", environment={}).tables
    with CliRunner().isolation(input=f"{answer}\n") as (_, errors, _):
        for stream in (sys.stdin, sys.stderr):
            stream.isatty = lambda: True  # type: ignore[method-assign]
        if answer == "y":
            require_trusted(tables, foreign)
            require_trusted(tables, foreign)  # remembered
        else:
            with pytest.raises(UsageError, match="refers to code"):
                require_trusted(tables, foreign)
        asked = errors.getvalue().decode()
    assert asked.count(str(foreign / "evil.py")) == asked.count("Execute it?") == 1
    assert str(FAKE) not in asked


def test_without_a_terminal_nobody_is_asked(tmp_path: Path) -> None:
    with CliRunner().isolation(input="y\n"):
        assert not ask_on_terminal(["file /x.py"], tmp_path)


# ------------------------------------------------------------ what counts as code


@pytest.mark.parametrize(
    ("tables", "found"),
    [
        ({"plugins": {"files": ["p.py"]}}, "p.py"),
        ({"plugins": {"files": ["no-suffix"]}}, "no-suffix"),
        ({"technique": {"policy": {"rewards": [{"function": "r.py:score"}]}}}, "r.py"),
        ({"technique": {"policy": {"rewards": [{"plugin": "pty:spawn"}]}}}, "pty:spawn"),
        ({"technique": {"policy": {"monitor": {"gold": "/x/gold.py:score"}}}}, "/x/gold.py"),
        ({"evaluators": [{"use": "win-rate", "reward": "judge.py:score"}]}, "judge.py"),
        ({"evaluators": [{"use": "lm-eval", "task": "task.yaml"}]}, "task.yaml"),
        ({"data": {"use": "other", "code": "load.py:rows"}}, "load.py"),
        ({"evaluators": [{"use": "code", "execute_generated_code": True}]}, "generated:code"),
        ({"reporters": [{"use": "html", "path": "/home/me/.bashrc"}]}, "/home/me/.bashrc"),
        ({"reporters": [{"use": "jsonlines", "path": "../../x"}]}, "x"),
        ({"reporters": [{"use": "jsonlines", "path": "~/x"}]}, "x"),
    ],
)
def test_code_in_any_table_is_found(tables: dict[str, Any], found: str, tmp_path: Path) -> None:
    (item,) = find_code(tables, tmp_path / "run")
    assert found in item


def test_ordinary_run_files_name_no_code(tmp_path: Path) -> None:
    tables = {
        "run": {"device": "cuda:0"},
        "model": {"base": "wheel:package"},
        "technique": {"use": "echo:lora", "from": "runs/a"},
        "evaluators": [{"use": "win-rate", "reward": "runs/b/reward"}],
        "reporters": [{"use": "html", "path": "pages/report.html"}],
        "baselines": {"system_prompt": "answer:briefly"},
    }
    assert find_code(tables, tmp_path) == []
    require_trusted(tables, tmp_path)


def test_what_the_user_runs_is_remembered_once(tmp_path: Path) -> None:
    tables = {"plugins": {"files": ["p.py"]}}
    for _ in range(2):
        trust_code(tables, tmp_path)
    assert len(trust_file().read_text().splitlines()) == 1
    require_trusted(tables, tmp_path)


def test_a_damaged_list_trusts_nothing(tmp_path: Path) -> None:
    add_trusted_code(["file /x/p.py"])
    trust_file().write_bytes(b"\xff\n{}\n3\nfile /x/p.py\n")
    with pytest.raises(UsageError, match=r"p\.py"):
        require_trusted({"plugins": {"files": ["/x/p.py"]}}, tmp_path)


def test_without_a_state_directory_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    trust_code({"plugins": {"files": ["p.py"]}}, tmp_path)
    require_trusted({"plugins": {"files": ["p.py"]}}, tmp_path, trusted=True)

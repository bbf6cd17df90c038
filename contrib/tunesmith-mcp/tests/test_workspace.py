"""Paths and run files that lead out of the shared folder are refused, by each way that there is."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import anyio
import pytest
from click.testing import CliRunner

from tunesmith.config.run_file import parse_value
from tunesmith.errors import TunesmithError
from tunesmith_mcp import process, server, workspace
from tunesmith_mcp.command import command
from tunesmith_mcp.process import CommandFailed, run_command, start_run
from tunesmith_mcp.server import Tools, build_server, set_words
from tunesmith_mcp.workspace import Workspace

RUN_FILE = '[model]\nbase = "org/model"\n[data]\nuse = "jsonl"\ntrain = {}\n'


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A shared folder, beside a file of somebody else and a folder of models."""
    for folder in ("shared", "models"):
        (tmp_path / folder).mkdir()
    (tmp_path / "other.jsonl").touch()
    shared = tmp_path / "shared"
    (shared / "rows.jsonl").touch()
    (shared / "linked.jsonl").symlink_to(tmp_path / "other.jsonl")
    (shared / "way").symlink_to(tmp_path)
    return shared


@pytest.mark.parametrize(
    "train",
    [
        '"../other.jsonl"', '"linked.jsonl"', '"link*.jsonl"', '"way/*.jsonl"', '"~/rows.jsonl"',
        '["rows.jsonl", "/etc/hosts"]', '"sqlite:////etc/x"', '"**/other.jsonl"',
        f'"{"./" * 2_001}../other.jsonl"', '"no\\n/../../other.jsonl"',
    ],
)  # fmt: skip
def test_data_outside_is_refused(train: str, shared: Path) -> None:
    (shared / "run.toml").write_text(RUN_FILE.format(train))
    with pytest.raises(TunesmithError, match=r"data\.train"):
        Workspace(shared).find_run_file("run.toml", {})


def test_a_pattern_outside_is_refused_before_it_is_searched(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shared / "run.toml").write_text(RUN_FILE.format('"/**/none*"'))
    monkeypatch.setattr(workspace.glob, "iglob", lambda *_, **__: pytest.fail("searched"))
    with pytest.raises(TunesmithError, match="leads out"):
        Workspace(shared).find_run_file("run.toml", {})


def test_names_in_tables_and_environment_variables_are_checked(shared: Path) -> None:
    for line in ('by."../other.jsonl" = 1', 'url_env = "DATABASE_URL"'):
        (shared / "run.toml").write_text(RUN_FILE.format('"rows.jsonl"') + line)
        with pytest.raises(TunesmithError, match=r"data\.(by|url_env)"):
            Workspace(shared).find_run_file("run.toml", {})


@pytest.mark.parametrize("value", [True, 3, 0.5, "a", 'a "b" \\ \x7f\t\n\0', "\U0001f600 é", "3"])
def test_a_changed_value_is_the_one_that_was_checked(value: bool | int | float | str) -> None:
    _, word = set_words({"key": value})
    assert parse_value(word.removeprefix("key=")) == value


@pytest.mark.parametrize("train", ['"rows.jsonl"', '["rows.jsonl", "row*"]', '"no.jsonl"'])
def test_data_inside_is_accepted(train: str, shared: Path) -> None:
    (shared / "run.toml").write_text(RUN_FILE.format(train))
    assert Workspace(shared).find_run_file("run.toml", {}) == shared / "run.toml"
    model = {"model.base": str(shared.parent / "models")}
    with pytest.raises(TunesmithError, match="leads out"):
        Workspace(shared).find_run_file("run.toml", model)
    assert Workspace(shared, [shared.parent / "models"]).find_run_file("run.toml", model)


def test_code_is_refused_unless_it_is_allowed(shared: Path) -> None:
    (shared / "run.toml").write_text(RUN_FILE.format('"rows.jsonl"'))
    code = {"plugins.files": ["code.py"]}
    with pytest.raises(TunesmithError, match="names code"):
        Workspace(shared).find_run_file("run.toml", code)
    assert Workspace(shared, allows_code=True).find_run_file("run.toml", code)


@pytest.mark.parametrize(
    "path", ["..", "/", "linked.jsonl", "way", "way/shared/../other.jsonl", "-"]
)
def test_paths_outside_are_refused_alike(path: str, shared: Path) -> None:
    with pytest.raises(TunesmithError, match="no such file or folder in the shared folder"):
        Workspace(shared).find(path)


def test_a_command_works_in_the_folder_that_its_paths_were_checked_for(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model folder that does not exist beside the run file is looked up in the working folder."""
    (shared / "below").mkdir()
    (shared / "below" / "run.toml").write_text(RUN_FILE.format('"rows.jsonl"'))
    folders: list[Path] = []

    async def run(words: object, folder: Path, seconds: float) -> str:
        folders.append(folder)
        return "{}"

    monkeypatch.setattr(server, "run_command", run)
    anyio.run(Tools(Workspace(shared), 9).check, "below/run.toml")
    assert folders == [shared / "below"]


def test_a_run_that_does_not_start_is_ended(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = [sys.executable, "-c", "import time; time.sleep(60)"]
    monkeypatch.setattr(process, "command_line", lambda words: waiting)
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen
    monkeypatch.setattr(
        process.subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[-1]
    )
    with pytest.raises(CommandFailed, match=r"not started within 0\.3 s"):
        anyio.run(start_run, ["run"], shared, shared / "none", 0.3)
    assert started[0].wait(10) == -signal.SIGKILL


@pytest.mark.parametrize("allowed", [False, True])
def test_runs_need_the_flag(allowed: bool, shared: Path) -> None:
    built = build_server(Workspace(shared), seconds=9, allow_runs=allowed)
    names = {tool.name for tool in anyio.run(built.list_tools)}
    assert ({"start_run", "stop_run"} <= names) is allowed and {"check", "advise"} <= names


def test_a_command_has_a_time_limit_and_a_longest_answer(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "command_line", lambda words: [sys.executable, "-c", *words])
    for code, reason in (
        ("import time; time.sleep(60)", "time limit of 2 s"),
        ("print('x' * 300_000)", "more than 200,000"),
        ("import sys; sys.exit('error: broken')", "error: broken"),
    ):
        with pytest.raises(CommandFailed, match=reason):
            anyio.run(run_command, [code], shared, 2)


def test_a_folder_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, [str(tmp_path / "none")])
    assert result.exit_code == 2 and "does not exist" in result.stderr

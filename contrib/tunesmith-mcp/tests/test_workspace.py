"""Paths and run files that lead out of the shared folder are refused, by each way that there is."""

from __future__ import annotations

import sys
from pathlib import Path

import anyio
import pytest
from click.testing import CliRunner

from tunesmith.errors import TunesmithError
from tunesmith_mcp import process
from tunesmith_mcp.command import command
from tunesmith_mcp.process import CommandFailed, run_command
from tunesmith_mcp.server import build_server
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
    ],
)  # fmt: skip
def test_data_outside_is_refused(train: str, shared: Path) -> None:
    (shared / "run.toml").write_text(RUN_FILE.format(train))
    with pytest.raises(TunesmithError, match=r"data\.train"):
        Workspace(shared).find_run_file("run.toml", {})


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


@pytest.mark.parametrize("allowed", [False, True])
def test_runs_need_the_flag(allowed: bool, shared: Path) -> None:
    server = build_server(Workspace(shared), seconds=9, allow_runs=allowed)
    names = {tool.name for tool in anyio.run(server.list_tools)}
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

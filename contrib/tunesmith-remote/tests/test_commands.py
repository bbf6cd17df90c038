"""The commands: what they print, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from run_folders import add_step, make_run, read_run

from tunesmith.errors import UsageError
from tunesmith_remote.commands import pull, push


def call(command: click.Command, *words: str) -> None:
    command.main([*words], standalone_mode=False)


def test_a_run_is_pushed_and_pulled(
    memory_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, other = make_run(tmp_path / "run"), tmp_path / "it's another"
    call(push.command, str(run), memory_url)
    assert capsys.readouterr().out.startswith(f"pushed snapshot 1 to {memory_url}: 8 files, ")
    add_step(run, 30)
    (run / "checkpoints" / "step-00000030" / "state.json").unlink()
    call(push.command, str(run))  # to where it was pushed
    printed = capsys.readouterr()
    assert f"pushed snapshot 2 to {memory_url}: 5 files, " in printed.out
    assert (
        "warning: checkpoints/step-00000030 is damaged and was not pushed: state.json"
        in printed.err
    )
    call(pull.command, memory_url, str(other))
    printed = capsys.readouterr()
    assert "pulled snapshot 2 to" in printed.out and "newest checkpoint: step 20" in printed.out
    assert f"tunesmith resume '{tmp_path}/it'\"'\"'s another'" in printed.err
    assert read_run(other).keys() < read_run(run).keys()


def test_a_folder_that_was_never_pushed_needs_a_url(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="was never pushed"):
        call(push.command, str(make_run(tmp_path / "run")))
    with pytest.raises(UsageError, match="no such folder"):
        call(push.command, str(tmp_path / "gone"), "memory://runs/a")

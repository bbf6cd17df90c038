"""The README: its run file runs, its commands exist, and its picture is what the screen shows."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

import tunesmith
from tunesmith_tui.command import command

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_run_file_runs_and_is_shown(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    press: Callable[..., list[str]],
) -> None:  # fmt: skip
    monkeypatch.setenv("TUNESMITH__RUN__SIDE_EFFECTS", "false")
    (text,) = blocks("toml")
    text = text.replace("HuggingFaceTB/SmolLM2-135M-Instruct", str(tiny_model))
    (tmp_path / "run.toml").write_text(text, encoding="utf-8")
    rows = [{"prompt": f"question {n}", "completion": f"answer {n % 7}"} for n in range(60)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "tickets.jsonl").write_text(lines, encoding="utf-8")
    changes = {"technique.max_steps": 4, "baselines.use": [], "run.folder": str(tmp_path / "runs")}
    run = tunesmith.run(tmp_path / "run.toml", set=changes)
    folder = run.path.parent
    contents = {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()}
    listed, shown, answers, data = press(folder, "1", "2", "4", "5", size=(120, 40))
    assert "lora" in listed and "loss" in shown and "✗ tuned" in answers
    assert "‹<|im_start|>›user⏎" in data and "answer" in data
    assert contents == {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()}


def test_its_commands_exist() -> None:
    lines = [line for block in blocks("console") for line in block.splitlines()]
    own = [line for line in lines if line.startswith("$ tunesmith dashboard")]
    assert len(own) == 2
    for line in own:
        command.make_context("dashboard", shlex.split(line, comments=True)[3:])


def test_its_picture_is_a_screen() -> None:
    (picture,) = blocks("text")
    snapshot = Path(__file__).parent / "snapshots" / "run-80x24.txt"
    assert picture == snapshot.read_text(encoding="utf-8")

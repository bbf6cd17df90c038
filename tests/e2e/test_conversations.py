"""Conversations with one row for each answer, on the command line: each stays in one part."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
import tomli_w

Tunesmith = Callable[..., Any]
WORDS = [f"{a}{b}" for a in ("bra", "do", "fle", "gri", "ha", "ke") for b in ("nt", "st", "ll")]
ROLES = ("user", "assistant")


def conversations(count: int) -> list[list[list[str]]]:
    """Return the rows of each conversation: its turns up to each of its answers."""
    rng = Random(3)
    talks = []
    for number in range(count):
        turns = [
            f"{' '.join(rng.choices(WORDS, k=4))} {number}" for _ in range(2 * (1 + number % 3))
        ]
        talks.append([turns[:end] for end in range(2, len(turns) + 1, 2)])
    return talks


def write(path: Path, rows: Sequence[Sequence[str]]) -> None:
    lines = [
        json.dumps(
            {"messages": [{"role": ROLES[n % 2], "content": text} for n, text in enumerate(row)]}
        )
        for row in rows
    ]
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_folder: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    talks = conversations(60)
    write(tmp_path / "all.jsonl", [row for rows in talks for row in rows])
    write(tmp_path / "train.jsonl", [rows[-1] for rows in talks])
    write(tmp_path / "first.jsonl", [rows[0] for rows in talks[1:31:3]])
    plan = {
        "model": {"base": str(tiny_folder)},
        "data": {"use": "jsonl", "train": "all.jsonl", "test_size": 24},
        "technique": {"use": "lora", "max_steps": 2, "batch_size": 4},
        "evaluators": [{"use": "loss"}],
        "baselines": {"use": ["zero-shot"]},
    }
    (tmp_path / "run.toml").write_text(tomli_w.dumps(plan))
    del plan["data"]["test_size"]  # type: ignore[attr-defined]
    plan["data"] |= {"train": "train.jsonl", "test": "first.jsonl"}  # type: ignore[operator]
    (tmp_path / "given.toml").write_text(tomli_w.dumps(plan))
    return tmp_path


def test_a_file_with_the_beginnings_of_training_rows_is_an_error(
    here: Path, tunesmith: Tunesmith
) -> None:
    done = tunesmith("data", "check", "train.jsonl", "--test", "first.jsonl", "--json")
    assert done.code == 3
    (error,) = (f for f in done.data["findings"] if f["level"] == "error")
    assert error["count"] == 10
    assert error["message"].startswith("10 of 10 test rows (100 %) are the start of a longer")
    checked = tunesmith("check", "given.toml")
    assert "are the start of a longer training row" in checked.err


@pytest.mark.processes
def test_a_run_keeps_the_rows_of_a_conversation_together(here: Path, tunesmith: Tunesmith) -> None:
    split = tunesmith("data", "split", "all.jsonl", "--out", "parts", "--test-size", "24", "--json")
    assert split.data["clusters"] == 60
    again = tunesmith("data", "check", "parts/train.jsonl", "--test", "parts/test.jsonl")
    assert again.code == 0 and "data leaks" not in again.out
    assert "data leaks" not in tunesmith("check", "run.toml").out
    done = tunesmith("run", "run.toml", "--out", "out")
    assert done.code == 0, done.err
    report = json.loads((here / "out/report.json").read_text())
    assert [n for n in report["findings"] if n["source"] == "data leaks"] == []

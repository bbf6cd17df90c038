"""The README's run file runs, and its table agrees with new measurements."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from verify_methods import COLUMNS, verify_method

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"


def block(language: str) -> str:
    (text,) = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    return str(text)


def tunesmith(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "tunesmith", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def test_the_run_file_runs_and_the_result_converts(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(block("json"), encoding="utf-8")
    text = block("toml").replace(MODEL, str(tiny_model))
    (tmp_path / "run.toml").write_text(text, encoding="utf-8")
    tunesmith(tmp_path, "run", "run.toml", "--out", "runs/vera")
    assert "nats" in tunesmith(tmp_path, "export", "runs/vera", "--to", "lora", "--set", "rank=16")
    assert "vera" in tunesmith(tmp_path, "peft", "methods")


@pytest.mark.parametrize("method", ["vera", "adamss", "prefix_tuning", "vblora"])
def test_the_table_agrees_with_a_new_measurement(method: str, tiny_model: Path) -> None:
    """One method of each kind; the other rows are printed by the same command."""
    row = next(line for line in README.splitlines() if line.startswith(f"| {method} |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    outcome = verify_method(method, tiny_model)
    assert cells[1:] == [str(outcome.parameters), *(outcome.results[c] for c in COLUMNS)]

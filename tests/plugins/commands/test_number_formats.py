"""Every number on the terminal has one of the forms of ``tunesmith_evidence.number_text``."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomli_w
from click.testing import CliRunner

import tunesmith
from tunesmith_cli.app import app
from tunesmith_torch.testing.tiny_model import save_tiny_model

NUMBER = r"[+-]?\d[\d,]*\.\d+|[+-]?\d[\d,]*|[<>]-?0\.001"
VALUE = r"[+-]?\d{1,2}\.\d{3}|[+-]?\d{3}\.\d|[+-]?[\d,]+|[<>]-?0\.001"
FOREIGN = {
    "an exponent that Python writes": r"\de[+-]\d\d",
    "a percentage without a space": r"\d%",
    "more than three decimals": r"(?<![\d.\w-])\d+\.\d*[1-9]\d{3,}\b(?!\.)",
    "powers of 1000": r"\d ?[kKMGT]B\b",
    "a size in bytes": r"\d,\d{3} bytes",
    "a p-value": r"\bp = (?!\d\.\d{3}\b)",
}


def find_foreign(text: str) -> Iterator[str]:
    """Yield what is written in a form of its own, with what is wrong."""
    for what, pattern in FOREIGN.items():
        for match in re.finditer(pattern, text):
            yield f"{what}: {text[max(0, match.start() - 30) : match.end() + 10]!r}"
    for match in re.finditer(rf"\[({NUMBER}), ({NUMBER})\]", text):
        if not all(re.fullmatch(VALUE, end) for end in match.groups()):
            yield f"an interval: {match[0]!r}"


@pytest.mark.parametrize(
    "text",
    ["loss 5.61e-45", "1e-05", "12%", "0.98671", "16 GB", "512MB", "1,234 bytes", "p = 0.12",
     "p = 1e-9", "[0.81, 0.937]", "[-0.1, +0.2]", "[0.8140, 0.9370]"],
)  # fmt: skip
def test_foreign_forms_are_found(text: str) -> None:
    assert [*find_foreign(f"it is {text}, or so")]


@pytest.mark.parametrize(
    "text",
    ["0.890 [0.814, 0.937]", "[>-0.001, +0.123]", "[<0.001, 0.002]", "2e-4", "12 %", "0.36 %",
     "0.0126", "p = 0.032", "p < 0.001", "1.3 GiB", "torch 2.11.0", "[1,024, 1,100]"],
)  # fmt: skip
def test_own_forms_pass(text: str) -> None:
    assert not [*find_foreign(f"it is {text}, or so")]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs of a tiny model, their run file, and its data."""
    folder = tmp_path_factory.mktemp("formats")
    save_tiny_model(folder / "model")
    rows = [{"prompt": f"ticket {n} of {n % 3}?", "completion": f"team {n % 3}"} for n in range(80)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "rows.jsonl").write_text(lines, encoding="utf-8")
    tables = {
        "reporters": [],
        "run": {"device": "cpu"},
        "model": {"base": "model"},
        "data": {"train": "rows.jsonl"},
        "technique": {"use": "lora", "max_steps": 6, "learning_rate": 0.01},
        "evaluators": [{"use": "exact-match", "max_new_tokens": 4}, {"use": "loss"}],
        "baselines": {"use": ["majority", "linear", "zero-shot"]},
    }
    (folder / "run.toml").write_text(tomli_w.dumps(tables), encoding="utf-8")
    tunesmith.run(folder / "run.toml", out=folder / "first")
    tables["technique"] = {"use": "lora", "max_steps": 6, "learning_rate": 3e-5}
    (folder / "other.toml").write_text(tomli_w.dumps(tables), encoding="utf-8")
    tunesmith.run(folder / "other.toml", out=folder / "second")
    tables["advise"] = {
        "volume": 20_000, "latency_limit": 0.5, "knowledge_changes": "weekly", "price_per_hour": 2.5
    }  # fmt: skip
    tables["reporters"] = [{"use": "console", "progress": "plain"}]
    (folder / "shown.toml").write_text(tomli_w.dumps(tables), encoding="utf-8")
    shutil.copytree(folder / "second", folder / "failed")
    log = folder / "failed" / "events.jsonl"
    lines = log.read_text(encoding="utf-8").splitlines(keepends=True)
    log.write_text("".join(line for line in lines if "-finished" not in line), encoding="utf-8")
    return folder


def read_output(project: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    """Return what a command prints."""
    monkeypatch.chdir(project)
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code in (0, 6), done.output
    assert len(done.output) > 9
    return done.output


@pytest.mark.processes
@pytest.mark.parametrize(
    "command",
    [
        "report first", "report first --failures 3", "runs .", "compare first second",
        "compare first second first", "failures first", "verify first", "check run.toml",
        "plan run.toml", "baselines run.toml --out baselines", "evaluate first --data rows.jsonl",
        "seeds first --count 2", "data stats run.toml",
        "data check run.toml", "doctor", "run shown.toml --out third",
        "advise shown.toml --out advice", "export first --to safetensors --out exported",
        "report failed",
    ],
)  # fmt: skip
def test_numbers_of_commands(project: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    text = read_output(project, monkeypatch, *command.split())
    if command.startswith("plan"):
        text = re.sub(r"\d+ GB\b", "a GPU", text)  # GPUs are named by the size they are sold with
    assert not [*find_foreign(text)]

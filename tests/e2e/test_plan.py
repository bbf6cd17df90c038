"""Planning with the built-in techniques: what is foretold holds what comes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tunesmith.cli.app import app

RUN = """
[model]
base = "model"
[data]
use = "jsonl"
train = "rows.jsonl"
holdout = 4
[technique]
use = "lora"
max_steps = 3
[run]
device = "cpu"
[[evaluators]]
use = "loss"
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from tunesmith_torch.testing.tiny_model import save_tiny_model

    monkeypatch.chdir(tmp_path)
    save_tiny_model(tmp_path / "model")
    rows = [{"prompt": f"question {n}", "completion": f"answer {n}"} for n in range(24)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "run.toml").write_text(RUN)
    return tmp_path


def command(*arguments: str) -> dict[str, Any]:
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_what_is_planned_is_what_a_run_foretells_and_does(here: Path) -> None:
    planned = command("plan", "run.toml")
    assert {"lora", "full"} <= set(planned["memory"])
    assert planned["device"] == "cpu"
    work = planned["work"]["lora"]
    report = command("run", "run.toml", "--out", "out")
    forecast = report["forecast"]
    assert forecast["technique"] == "lora" and forecast["memory"]["expected"] > 0
    assert work["steps"] == report["training"]["steps"] == 3
    assert work["tokens"] == pytest.approx(report["training"]["tokens"], rel=0.5)
    assert forecast["actual"]["peak_memory_bytes"] > 0
    # The rest of this process counts as the run's own: only the low end can be held to it.
    assert forecast["memory"]["low"] < forecast["actual"]["peak_memory_bytes"]


def test_the_config_alone_is_enough(here: Path) -> None:
    for path in (here / "model").iterdir():
        if path.name != "config.json":
            path.unlink()
    planned = command("plan", "run.toml", "--quick", "--assume", "sequence=64,rows=100")
    assert planned["memory"]["lora"]["train"]["expected"] > 0
    refused = CliRunner().invoke(app, ["run", "run.toml"])
    assert refused.exit_code == 4 and "no *.safetensors file" in refused.stderr
    assert not (here / "runs").exists()

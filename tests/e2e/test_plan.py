"""Planning with the built-in techniques: the forecast agrees with the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tunesmith_cli.app import app

RUN = """
[model]
base = "model"
[data]
use = "jsonl"
train = "rows.jsonl"
test_size = 4
[technique]
use = "lora"
max_steps = 3
[run]
device = "cpu"
[[evaluators]]
use = "loss"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from tunesmith_torch.testing.tiny_model import save_tiny_model

    monkeypatch.chdir(tmp_path)
    save_tiny_model(tmp_path / "model")
    rows = [{"prompt": f"question {n}", "completion": f"answer {n}"} for n in range(24)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "run.toml").write_text(RUN)
    return tmp_path


def command(*arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    parsed: dict[str, Any] = json.loads(result.stdout)
    return parsed


@pytest.mark.processes
def test_plan_forecast_and_run_agree(folder: Path) -> None:
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
    # The measured peak includes the rest of this process: only the lower bound can be checked.
    assert forecast["memory"]["low"] < forecast["actual"]["peak_memory_bytes"]


def test_a_plan_needs_only_the_model_config(folder: Path) -> None:
    for path in (folder / "model").iterdir():
        if path.name != "config.json":
            path.unlink()
    planned = command("plan", "run.toml", "--quick", "--assume", "sequence=64,rows=100")
    assert planned["memory"]["lora"]["train"]["expected"] > 0
    refused = CliRunner().invoke(app, ["run", "run.toml"])
    assert refused.exit_code == 4 and "no *.safetensors files" in refused.stderr
    assert not (folder / "runs").exists()

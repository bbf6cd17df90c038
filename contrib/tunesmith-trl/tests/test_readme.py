"""The run files of the README run, with a tiny model in place of theirs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


FP32 = ["--set", "technique.precision=fp32"]
REWARD_STAGE = """
[model]
base = "{model}"

[data]
use = "jsonl"
train = "pairs.jsonl"

[technique]
use = "rlhf"
supervised = {{ epochs = 1, adapter.rank = 2 }}
reward = {{ epochs = 1, adapter.rank = 2, gate.accept_weak = true }}
policy.skip = true
"""


@pytest.fixture(scope="module")
def project(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the README, and pairs for a reward model."""
    folder = tmp_path_factory.mktemp("project")
    (rewards,), (rows,) = blocks("python"), blocks("json")
    (folder / "rewards.py").write_text(rewards, encoding="utf-8")
    (folder / "train.jsonl").write_text(rows, encoding="utf-8")
    pairs = [
        json.dumps({"prompt": f"{n}?", "chosen": f"yes, {n}", "rejected": "no"}) + "\n"
        for n in range(20)
    ]
    (folder / "pairs.jsonl").write_text("".join(pairs), encoding="utf-8")
    reward_stage = REWARD_STAGE.format(model=tiny_model)
    (folder / "rlhf.toml").write_text(reward_stage, encoding="utf-8")
    for number, text in enumerate(blocks("toml")):
        assert MODEL in text
        replaced = text.replace(MODEL, str(tiny_model))
        (folder / f"run{number}.toml").write_text(replaced, encoding="utf-8")
    return folder


def tunesmith(folder: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "tunesmith", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def events(run: Path, kind: str) -> Sequence[dict[str, Any]]:
    lines = (run / "events.jsonl").read_text(encoding="utf-8").splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == kind]


def test_the_first_run_file_runs(project: Path) -> None:
    tunesmith(project, "plan", "run0.toml", "--quick")
    tunesmith(project, "run", "run0.toml", "--out", "runs/first", *FP32)
    (started,) = events(project / "runs" / "first", "training-started")
    assert started["technique"] == "trl-grpo" and started["details"]["trainer"] == "trl"
    assert (project / "runs" / "first" / "adapter" / "adapter_model.safetensors").is_file()


def test_a_killed_run_resumes_to_the_weights_of_an_uninterrupted_one(project: Path) -> None:
    """It is killed after a checkpoint, with TRL's own checkpoints off."""
    if not (project / "runs" / "first" / "report.json").is_file():
        tunesmith(project, "run", "run0.toml", "--out", "runs/first", *FP32)
    killed = project / "runs" / "killed"
    command = [sys.executable, "-m", "tunesmith", "run", "run0.toml", "--out", str(killed), *FP32]
    with subprocess.Popen(
        command, cwd=project, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        while process.poll() is None and not _has_checkpoint(killed, 4):
            time.sleep(0.02)
        process.kill()
    assert not (killed / "report.json").exists(), "it ended before it was killed"
    tunesmith(project, "resume", str(killed))
    starts = events(killed, "training-started")
    assert len(starts) == 2 and starts[1]["first_step"] >= 4
    name = Path("adapter", "adapter_model.safetensors")
    assert (killed / name).read_bytes() == (project / "runs" / "first" / name).read_bytes()
    assert not (killed / "trl").exists()


def _has_checkpoint(run: Path, step: int) -> bool:
    log = run / "events.jsonl"
    if not log.is_file():
        return False
    lines = log.read_text(encoding="utf-8").splitlines()
    return any('"checkpoint-saved"' in line and f'"step": {step}' in line for line in lines)


def test_the_second_run_file_runs_on_the_model_of_an_earlier_run(project: Path) -> None:
    """A reward model is loaded as a model of its own, and the supervised model is the reference."""
    tunesmith(project, "run", "rlhf.toml", "--out", "runs/rlhf")
    quick = ["--set", "technique.generation.max_new_tokens=8"]
    tunesmith(project, "run", "run1.toml", "--out", "runs/second", *quick)
    (started,) = events(project / "runs" / "second", "training-started")
    assert started["technique"] == "trl-rloo"
    assert started["details"]["shares_base_with_reward_model"] is False
    assert "supervised" in started["details"]["from"]
    assert "reward" in json.dumps(events(project / "runs" / "second", "step-finished"))

"""kill -9 in a run whose artifact is an earlier checkpoint: resumed, it makes the same choice."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from tunesmith.storage import Checkpoints
from tunesmith_torch.models import artifacts
from tunesmith_torch.testing.tiny_model import save_tiny_model
from tunesmith_torch.training.checkpoint_writer import CheckpointWriter

pytestmark = pytest.mark.processes

WORDS = ["card", "refund", "answer", "delivery", "invoice", "ten"]
STEPS = 16


class OvertrainedRun:
    """Rows that can only be memorized, so that the validation loss rises after some steps."""

    def __init__(self, folder: Path, real: Any) -> None:
        self.folder, self.real = folder, real
        save_tiny_model(folder / "model")
        rows = []
        for n in range(44):
            answer = " ".join(random.Random(n).choices(WORDS, k=3))
            rows.append(json.dumps({"prompt": f"What is {n}?", "completion": answer}) + "\n")
        (folder / "rows.jsonl").write_text("".join(rows), encoding="utf-8")
        technique = {
            "use": "lora",
            "epochs": 4,
            "batch_size": 8,
            "learning_rate": 3e-2,
            "precision": "fp32",
            "schedule": {"type": "constant"},
            "adapter": {"dropout": 0.1, "rank": 8},
            "checkpoints": {"every": 3, "keep": 1},
            "validation": {"every": 1},
        }
        tables = {
            "reporters": [],
            "run": {"seed": 3, "device": "cpu"},
            "model": {"base": "model"},
            "data": {"use": "jsonl", "train": ["rows.jsonl"], "test_size": 4},
            "split": {"validation_size": 8},
            "technique": technique,
            "evaluators": [{"use": "loss"}],
            "baselines": {"use": []},
        }
        self.file = folder / "run.toml"
        self.file.write_text(tomli_w.dumps(tables), encoding="utf-8")
        self.run = folder / "killed" / "run"
        self.complete = folder / "complete" / "run"
        done = real.run_command("run", self.file, "--out", self.complete)
        assert done.code == 0, done.output

    def collect_results(self, run: Path) -> dict[str, Any]:
        evaluations = {e["step"]: e["metrics"] for e in self.real.events(run, "monitored")}
        best = Checkpoints(run / "checkpoints").best()
        assert best is not None
        return {
            **self.real.collect_results(run),
            "evaluations": evaluations,
            "best": (best.step, self.real.digests(best.path)),
            "losses": (run / "validation.json").read_text(),
        }

    def kill(self, prepare: Any) -> None:
        shutil.rmtree(self.run, ignore_errors=True)
        killed = self.real.run_command("run", self.file, "--out", self.run, prepare=prepare)
        assert killed.code == self.real.KILLED, killed.output

    def resume(self) -> dict[str, Any]:
        done = self.real.run_command("resume", self.run)
        assert done.code == 0, done.output
        return self.collect_results(self.run)


@pytest.fixture(scope="module")
def overtrained(memory: Path, real: Any) -> OvertrainedRun:
    folder = memory / "overtrained"
    folder.mkdir()
    return OvertrainedRun(folder, real)


def test_the_best_step_is_neither_the_first_nor_the_last(
    real: Any, overtrained: OvertrainedRun
) -> None:
    best, _ = overtrained.collect_results(overtrained.complete)["best"]
    assert 2 < best < STEPS - 3
    assert len(real.events(overtrained.complete, "monitored")) == STEPS + 1


@pytest.mark.parametrize(
    "saves", [2, 5, 7, *(pytest.param(n, marks=pytest.mark.faults) for n in (1, 3, 4, 6, 8))]
)
def test_kill_after_a_checkpoint(
    faults: Any, real: Any, overtrained: OvertrainedRun, saves: int
) -> None:
    """Before the best step, at it, and after it, where only one other checkpoint is kept."""
    overtrained.kill(real.kill_after_save(saves))
    assert overtrained.resume() == overtrained.collect_results(overtrained.complete)
    faults.count_trials("kill -9 after a checkpoint, best ones and others")


@pytest.mark.parametrize(
    ("owner", "name", "number"),
    [
        (CheckpointWriter, "apply_decision", STEPS + 1),
        (artifacts, "save_artifact", 1),
    ],
    ids=["before the best weights are restored", "before the artifact is saved"],
)
def test_kill_at_the_end(
    faults: Any, real: Any, overtrained: OvertrainedRun, owner: Any, name: str, number: int
) -> None:
    overtrained.kill(real.before_call(owner, name, number, lambda: os._exit(real.KILLED)))
    assert overtrained.resume() == overtrained.collect_results(overtrained.complete)
    faults.count_trials("kill -9 between the last step and the artifact of the best checkpoint")


def test_kill_during_the_save_of_the_best(
    faults: Any, real: Any, overtrained: OvertrainedRun
) -> None:
    """Half of the file is written; the checkpoint before it is used."""
    overtrained.kill(
        real.before_call(real.stored_tensors, "save_file", 3, lambda: os._exit(real.KILLED))
    )
    assert overtrained.resume() == overtrained.collect_results(overtrained.complete)
    faults.count_trials("kill -9 in the save of a best checkpoint")

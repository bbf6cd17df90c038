"""kill -9 in every stage of a run: it goes on in that stage and ends in the same bits."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from tunesmith_torch.rlhf import stages
from tunesmith_torch.testing.tiny_model import save_tiny_model

STAGES = ("supervised", "reward", "policy")
WORDS = ["card", "refund", "answer", "delivery", "invoice", "ten"]


class Place:
    """A folder with a model, pairs, a run file, and the run that nothing happened to."""

    def __init__(self, folder: Path, real: Any, policy: dict[str, Any]) -> None:
        self.folder, self.real, self.policy = folder, real, policy
        save_tiny_model(folder / "model")
        (folder / "pairs.jsonl").write_text("".join(self._rows()), encoding="utf-8")
        # Not of the answer: whether gold falls, and ends the run, must not hang on the machine.
        (folder / "gold.py").write_text("def steady(prompt, answer):\n    return len(prompt)\n")
        self.file = folder / "run.toml"
        self.file.write_text(tomli_w.dumps(self._tables()), encoding="utf-8")
        self.run = folder / "killed" / "run"
        self.whole = folder / "whole" / "run"
        began = time.monotonic()
        done = real.command("run", self.file, "--out", self.whole)
        self.seconds = time.monotonic() - began
        assert done.code == 0, done.said

    def _rows(self) -> Iterator[str]:
        for n in range(60):
            words = random.Random(n)
            said = [" ".join(words.choices(WORDS, k=words.randint(2, 6))) for _ in range(2)]
            chosen, rejected = f"please {said[0]}", f"never {said[1]}"
            row = {"prompt": f"What is {n}?", "chosen": chosen, "rejected": rejected}
            yield json.dumps(row) + "\n"

    def _tables(self) -> dict[str, Any]:
        quick = {"batch_size": 8, "learning_rate": 1e-2, "precision": "fp32", "save_every": 1}
        adapter = {"dropout": 0.1, "rank": 4}
        return {
            "reporters": [],
            "run": {"seed": 3, "device": "cpu"},
            "model": {"base": "model"},
            "data": {"use": "jsonl", "train": ["pairs.jsonl"], "holdout": 28},
            "technique": {
                "use": "rlhf",
                "supervised": {**quick, **adapter, "epochs": 1.0},
                "reward": {**quick, **adapter, "epochs": 2.0},
                "policy": {
                    **quick,
                    "rank": 4,
                    "num_generations": 2,
                    "max_new_tokens": 6,
                    "mask_truncated_completions": False,
                    "num_iterations": 2,
                    **self.policy,
                    "gold": "gold.py:steady",
                    "monitor_every": 2,
                    "monitor_rows": 4,
                },
            },
            "evaluators": [{"use": "loss"}],
            "baselines": {"zero_shot": True, "shots": 0},
        }

    def evidence(self, run: Path) -> dict[str, Any]:
        """Artifacts of all stages, what was told, and what was seen on the way."""
        artifacts = {
            f"{stage}/{path.name}": self.real.digests(path)
            for stage in STAGES
            for path in (run / stage).iterdir()
            if path.name in ("adapter", "model")
        }
        looks = [
            {key: value for key, value in event.items() if key not in self.real.TIMES}
            for kind in ("watched", "sampled", "gated")
            for event in self.real.events(run, kind)
        ]
        return {
            "artifacts": artifacts,
            "told": self.real.told(run),
            "looks": sorted({json.dumps(look, sort_keys=True) for look in looks}),
            "values": self.real.digests(run / "evaluations"),
        }

    def resumed(self) -> dict[str, Any]:
        done = self.real.command("resume", self.run)
        assert done.code == 0, done.said
        return self.evidence(self.run)


@pytest.fixture(scope="module")
def place(memory: Path, real: Any) -> Place:
    folder = memory / "stages"
    folder.mkdir()
    return Place(folder, real, {"algorithm": "ppo", "kl_target": 2.0, "dropout": 0.1})


@pytest.mark.faults
def test_kill_in_the_policy_stage_on_trl(faults: Any, real: Any, memory: Path) -> None:
    """TRL's own checkpoints are off: what goes on is a new trainer with what is left to do."""
    (folder := memory / "stages-trl").mkdir()
    place = Place(folder, real, {"algorithm": "grpo", "backend": "trl", "learning_rate": 1e-3})
    killed = real.command("run", place.file, "--out", place.run, prepare=real.dies_after_save(14))
    assert killed.code == real.KILLED, killed.said
    before = len(real.events(place.run, "stepped"))
    assert place.resumed() == place.evidence(place.whole)
    again = real.events(place.run, "stepped")[before:]
    assert {event["stage"] for event in again} == {"policy"} and again[0]["step"] > 1
    faults.count("kill -9 in the policy stage on TRL")


def test_the_whole_run_is_whole(place: Place) -> None:
    evidence = place.evidence(place.whole)
    assert {name.split("/")[0] for name in evidence["artifacts"]} == set(STAGES)
    assert len(evidence["looks"]) >= 4


@pytest.mark.parametrize(
    ("stage", "saves"), [("supervised", 2), ("reward", 6), ("policy", 14)], ids=STAGES
)
def test_kill_in_the_middle_of_a_stage(
    faults: Any, real: Any, place: Place, stage: str, saves: int
) -> None:
    shutil.rmtree(place.run, ignore_errors=True)
    killed = real.command(
        "run", place.file, "--out", place.run, prepare=real.dies_after_save(saves)
    )
    assert killed.code == real.KILLED, killed.said
    began = [event["stage"] for event in real.events(place.run, "training-started")]
    assert began[-1] == stage
    assert len(real.events(place.run, "stepped")) > 0
    before = len(real.events(place.run, "stepped"))
    assert place.resumed() == place.evidence(place.whole)
    again = {event["stage"] for event in real.events(place.run, "stepped")[before:]}
    assert again == set(STAGES[STAGES.index(stage) :])  # what was finished is not trained again
    faults.count(f"kill -9 in the {stage} stage")


@pytest.mark.parametrize(
    "number", [3, 4, *(pytest.param(n, marks=pytest.mark.faults) for n in (1, 2))]
)
def test_kill_between_a_stages_artifact_and_its_last_word(
    faults: Any, real: Any, place: Place, number: int
) -> None:
    """The artifact is committed, but nothing says yet that the stage, or its gate, is done."""
    shutil.rmtree(place.run, ignore_errors=True)
    prepare = real.before_call(stages, "write_atomic", number, _die)
    killed = real.command("run", place.file, "--out", place.run, prepare=prepare)
    assert killed.code == real.KILLED, killed.said
    assert place.resumed() == place.evidence(place.whole)
    faults.count("kill -9 between a stage's artifact and its last word")


def _die() -> None:
    import os

    os._exit(137)


@pytest.mark.faults
@pytest.mark.parametrize("trial", range(12))
def test_kill_at_any_moment(faults: Any, real: Any, place: Place, trial: int) -> None:
    shutil.rmtree(place.run, ignore_errors=True)
    chance = random.Random(trial)
    kills = 0
    while kills < 3:
        go = ("resume", place.run) if (place.run / "run.toml").exists() else None
        if go is None:
            shutil.rmtree(place.run, ignore_errors=True)
        child = real.begin(*(go or ("run", place.file, "--out", place.run)))
        deadline = time.monotonic() + chance.uniform(0, 0.9 * place.seconds)
        while child.running() and time.monotonic() < deadline:
            time.sleep(0.001)
        child.signal(signal.SIGKILL)
        if child.end().code != -signal.SIGKILL:
            break
        kills += 1
    if real.events(place.run, "run-finished"):
        assert place.evidence(place.run) == place.evidence(place.whole)
    else:
        assert place.resumed() == place.evidence(place.whole)
    faults.count("kill -9 at any moment of a run with stages", kills)

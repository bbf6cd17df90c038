"""kill -9 in every stage of a run: it is resumed in that stage, with identical results."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from tunesmith.storage import verify_folder
from tunesmith_plugins.techniques.rlhf import reward_gate, stages
from tunesmith_torch.rlhf.policy_objective import PolicyObjective
from tunesmith_torch.testing.tiny_model import save_tiny_model
from tunesmith_torch.training import loop, stored_tensors

pytestmark = pytest.mark.processes

STAGES = ("supervised", "reward", "policy")
WORDS = ["card", "refund", "answer", "delivery", "invoice", "ten"]


class StagedRun:
    """A folder with a model, pairs, a run file, and an uninterrupted run."""

    def __init__(self, folder: Path, real: Any) -> None:
        self.folder, self.real = folder, real
        save_tiny_model(folder / "model")
        (folder / "pairs.jsonl").write_text("".join(self._rows()), encoding="utf-8")
        # Independent of the completion: rounding must not decide if the gold reward falls.
        (folder / "gold.py").write_text("def steady(prompt, answer):\n    return len(prompt)\n")
        self.file = folder / "run.toml"
        self.file.write_text(tomli_w.dumps(self._tables()), encoding="utf-8")
        self.run = folder / "killed" / "run"
        self.complete = folder / "complete" / "run"
        started = time.monotonic()
        done = real.run_command("run", self.file, "--out", self.complete)
        self.seconds = time.monotonic() - started
        assert done.code == 0, done.output

    def _rows(self) -> Iterator[str]:
        for n in range(60):
            words = random.Random(n)
            texts = [" ".join(words.choices(WORDS, k=words.randint(2, 6))) for _ in range(2)]
            chosen, rejected = f"please {texts[0]}", f"never {texts[1]}"
            row = {"prompt": f"What is {n}?", "chosen": chosen, "rejected": rejected}
            yield json.dumps(row) + "\n"

    def _tables(self) -> dict[str, Any]:
        quick = {"batch_size": 8, "learning_rate": 1e-2, "precision": "fp32"}
        quick = {**quick, "checkpoints": {"every": 1}, "adapter": {"rank": 4}}
        noisy = {**quick, "adapter": {"dropout": 0.1, "rank": 4}}
        return {
            "reporters": [],
            "run": {"seed": 3, "device": "cpu"},
            "model": {"base": "model"},
            "data": {"use": "jsonl", "train": ["pairs.jsonl"], "test_size": 4},
            "split": {"validation_size": 24},
            "technique": {
                "use": "rlhf",
                "supervised": {**noisy, "epochs": 1.0},
                "reward": {**noisy, "epochs": 2.0},
                "policy": {
                    **quick,
                    "algorithm": "ppo",
                    "generation": {"num_generations": 2, "max_new_tokens": 6},
                    "loss": {
                        "mask_truncated_completions": False,
                        "num_iterations": 2,
                        "kl_target": 2.0,
                    },
                    "monitor": {"gold": "gold.py:steady", "every": 2, "rows": 4},
                },
            },
            "evaluators": [{"use": "loss"}],
            "baselines": {"use": ["zero-shot"]},
        }

    def collect_results(self, run: Path) -> dict[str, Any]:
        """Return artifacts of all stages, logged events, and what the monitor observed."""
        artifacts = {
            f"{stage}/{path.name}": self.real.digests(path)
            for stage in STAGES
            for path in (run / stage).iterdir()
            if path.name in ("adapter", "model")
        }
        observations = [
            {key: value for key, value in event.items() if key not in self.real.VOLATILE_FIELDS}
            for kind in ("monitored", "completion-sampled", "gate-checked")
            for event in self.real.events(run, kind)
        ]
        return {
            "artifacts": artifacts,
            "events": self.real.logged_events(run),
            "observations": sorted(
                {json.dumps(observation, sort_keys=True) for observation in observations}
            ),
            "values": self.real.digests(run / "evaluations"),
        }

    def resume(self) -> dict[str, Any]:
        done = self.real.run_command("resume", self.run)
        assert done.code == 0, done.output
        return self.collect_results(self.run)


@pytest.fixture(scope="module")
def staged(memory: Path, real: Any) -> StagedRun:
    folder = memory / "stages"
    folder.mkdir()
    return StagedRun(folder, real)


def test_the_uninterrupted_run_has_all_stages(staged: StagedRun) -> None:
    results = staged.collect_results(staged.complete)
    assert {name.split("/")[0] for name in results["artifacts"]} == set(STAGES)
    assert len(results["observations"]) >= 4


@pytest.mark.parametrize(
    ("stage", "saves"), [("supervised", 2), ("reward", 6), ("policy", 14)], ids=STAGES
)
def test_kill_in_the_middle_of_a_stage(
    faults: Any, real: Any, staged: StagedRun, stage: str, saves: int
) -> None:
    shutil.rmtree(staged.run, ignore_errors=True)
    killed = real.run_command(
        "run", staged.file, "--out", staged.run, prepare=real.kill_after_save(saves)
    )
    assert killed.code == real.KILLED, killed.output
    started = [event["stage"] for event in real.events(staged.run, "training-started")]
    assert started[-1] == stage
    assert len(real.events(staged.run, "step-finished")) > 0
    before = len(real.events(staged.run, "step-finished"))
    assert staged.resume() == staged.collect_results(staged.complete)
    again = {event["stage"] for event in real.events(staged.run, "step-finished")[before:]}
    assert again == set(STAGES[STAGES.index(stage) :])  # finished stages are not trained again
    faults.count_trials(f"kill -9 in the {stage} stage")


@pytest.mark.parametrize(
    "number", [3, 4, *(pytest.param(n, marks=pytest.mark.faults) for n in (1, 2))]
)
def test_kill_between_the_artifact_and_the_end_of_a_stage(
    faults: Any, real: Any, staged: StagedRun, number: int
) -> None:
    """The artifact is committed, but the stage, or its gate, is not yet recorded as finished."""
    shutil.rmtree(staged.run, ignore_errors=True)
    prepare = real.before_call(stages, "write_atomic", number, _die)
    killed = real.run_command("run", staged.file, "--out", staged.run, prepare=prepare)
    assert killed.code == real.KILLED, killed.output
    assert staged.resume() == staged.collect_results(staged.complete)
    faults.count_trials("kill -9 between a stage's artifact and its end")


def _die() -> None:
    os._exit(137)


def _terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.001)  # handlers run between two instructions of the interpreter


PHASES: dict[str, tuple[Any, str, int, str]] = {
    "supervised update": (loop._GradientAccumulator, "_accumulate", 3, "supervised"),
    "supervised saving": (stored_tensors, "save_file", 3, "supervised"),
    "reward update": (loop._GradientAccumulator, "_accumulate", 8, "reward"),
    "reward saving": (stored_tensors, "save_file", 8, "reward"),
    "reward gate": (reward_gate.RewardModelEvaluation, "run", 1, "reward"),
    "rollout": (PolicyObjective, "_sample", 3, "policy"),
    "scoring": (PolicyObjective, "_score", 3, "policy"),
    "policy update": (PolicyObjective, "loss", 5, "policy"),
    "policy saving": (stored_tensors, "save_file", 15, "policy"),
}
"""A function, the number of the call before which the process is stopped, and the stage."""
ACTIONS = {"kill": (_die, 137), "SIGTERM": (_terminate, 143)}
QUICK = {("rollout", "kill"), ("policy saving", "SIGTERM")}


@pytest.mark.parametrize(
    ("phase", "action"),
    [
        pytest.param(phase, action, marks=() if (phase, action) in QUICK else pytest.mark.faults)
        for phase in PHASES
        for action in ACTIONS
    ],
)
def test_stop_in_a_phase_of_a_stage(
    faults: Any, real: Any, staged: StagedRun, phase: str, action: str
) -> None:
    """All tensors of all artifacts have the same bits as without the interruption."""
    shutil.rmtree(staged.run, ignore_errors=True)
    owner, name, number, stage = PHASES[phase]
    stop, code = ACTIONS[action]
    prepare = real.before_call(owner, name, number, stop)
    stopped = real.run_command("run", staged.file, "--out", staged.run, prepare=prepare)
    assert stopped.code == code, stopped.output
    if action == "SIGTERM":
        assert f"continue with: tunesmith resume {staged.run}" in stopped.output
        if phase == "reward gate":
            stage = "policy"  # a signal takes effect after a step, and the gate has none
    started = [event["stage"] for event in real.events(staged.run, "training-started")]
    assert started[-1] == stage
    for path in staged.run.rglob("MANIFEST.json"):
        assert verify_folder(path.parent) == []
    assert staged.resume() == staged.collect_results(staged.complete)
    faults.count_trials(f"{action} in {phase} of a run with stages")


@pytest.mark.faults
@pytest.mark.parametrize("trial", range(12))
def test_kill_at_any_moment(faults: Any, real: Any, staged: StagedRun, trial: int) -> None:
    shutil.rmtree(staged.run, ignore_errors=True)
    rng = random.Random(trial)
    kills = 0
    while kills < 3:
        go = ("resume", staged.run) if (staged.run / "run.toml").exists() else None
        if go is None:
            shutil.rmtree(staged.run, ignore_errors=True)
        child = real.start_command(*(go or ("run", staged.file, "--out", staged.run)))
        deadline = time.monotonic() + rng.uniform(0, 0.9 * staged.seconds)
        while child.running() and time.monotonic() < deadline:
            time.sleep(0.001)
        child.signal(signal.SIGKILL)
        if child.end().code != -signal.SIGKILL:
            break
        kills += 1
    if real.events(staged.run, "run-finished"):
        assert staged.collect_results(staged.run) == staged.collect_results(staged.complete)
    else:
        assert staged.resume() == staged.collect_results(staged.complete)
    faults.count_trials("kill -9 at any moment of a run with stages", kills)

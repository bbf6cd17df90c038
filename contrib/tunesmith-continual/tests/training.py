"""A training with ``[retention]`` in this process, and earlier runs without a trained model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import tomli_w
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file
from torch import Tensor

from tunesmith import api
from tunesmith.additions import Addition
from tunesmith.errors import RunStopped
from tunesmith.events import Event, FindingReported, StepFinished
from tunesmith.execution.run_data import build_job, load_data
from tunesmith.storage import Checkpoints
from tunesmith_cli.app import app
from tunesmith_cli.launch import create_run
from tunesmith_continual.subspace import measure_leak
from tunesmith_torch.training.additions import AdditionContext, TrainingAddition, Update

CPU = torch.device("cpu")
TECHNIQUE = {
    "epochs": 2,
    "batch_size": 4,
    "learning_rate": 1e-2,
    "precision": "fp32",
    "checkpoints": {"every": 1},
    "validation": {"every": 0},
}


def write_rows(folder: Path, name: str, count: int = 20) -> Path:
    """Write rows whose answers are one of two words of the task, and a file to validate on."""
    rows = [
        {"prompt": f"{name} {n}" * (1 + n % 3), "completion": f"{name} {'yes' if n % 2 else 'no'}"}
        for n in range(count + 6)
    ]
    lines = [json.dumps(row) + "\n" for row in rows]
    (folder / f"{name}-validation.jsonl").write_text("".join(lines[count:]), encoding="utf-8")
    path = folder / f"{name}.jsonl"
    path.write_text("".join(lines[:count]), encoding="utf-8")
    return path


def make_tables(
    model: Path, rows: Path, retention: dict[str, Any] | None = None, **technique: Any
) -> dict[str, Any]:
    """Return the tables of a run file."""
    use = technique.pop("use", "lora")
    adapter: dict[str, Any] = {"adapter": {"rank": 4}} if use == "lora" else {}
    return {
        "run": {"name": rows.stem, "seed": 3, "side_effects": False},
        "model": {"base": str(model)},
        "data": {
            "use": "jsonl",
            "train": str(rows),
            "validation": str(rows.with_name(f"{rows.stem}-validation.jsonl")),
            "test_size": 5,
        },
        "technique": {"use": use, **TECHNIQUE, **adapter, **technique},
        "baselines": {"use": []},
        "evaluators": [{"use": "exact-match", "max_new_tokens": 4}, {"use": "loss"}],
        **({"retention": retention} if retention else {}),
    }


def write_earlier_run(folder: Path, model: Path, name: str) -> Path:
    """Create the run folder of an earlier task."""
    plan, _ = api.load_plan(make_tables(model, write_rows(folder, name)))
    return create_run(plan, folder / f"run-{name}").path


def invoke(*arguments: object) -> Result:
    """Execute a command of ``tunesmith`` in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def write_task(folder: Path, model: Path, name: str, **retention: Any) -> Path:
    """Write the run file of a task, whose loss on test rows decides."""
    tables = make_tables(model, write_rows(folder, name), retention or None, learning_rate=0.02)
    tables["evaluators"] = [{"use": "loss"}, {"use": "exact-match", "max_new_tokens": 4}]
    path = folder / f"{name}.toml"
    path.write_text(tomli_w.dumps(tables), encoding="utf-8")
    return path


class Watching(TrainingAddition):
    """Records every applied update, after ``[retention]`` has changed it."""

    def __init__(self) -> None:
        self.changes: list[dict[str, Tensor]] = []

    def transform_update(self, update: Update) -> None:
        after = update.after.items()
        self.changes.append({name: x.double() - update.before[name].double() for name, x in after})


class Training:
    """A training: its events, its weights, and the updates that were applied."""

    def __init__(
        self,
        out: Path,
        model: Path,
        retention: dict[str, Any] | None = None,
        *,
        stop: int | None = None,
        **technique: Any,
    ) -> None:
        rows = write_rows(out.parent, "green")
        plan, _ = api.load_plan(make_tables(model, rows, retention, **technique))
        out.mkdir(parents=True, exist_ok=True)
        self.events: list[Event] = []
        self.stop = stop
        self.contexts: list[AdditionContext] = []
        self.watching = Watching()
        parts = load_data(plan)[1]
        job = build_job(plan, model, parts, Checkpoints(out / "checkpoints"), self.record)
        watch = Addition(build=self.watch, table="watching")
        job = replace(job, additions=[*job.additions, watch])
        self.folder = out / "additions" / "retention"
        self.artifact = plan.technique.offer.build(plan.technique.config).train(job)
        (weights,) = self.artifact.path.glob("*model*.safetensors")
        self.weights = load_file(weights)

    def watch(self, context: AdditionContext) -> Watching:
        self.contexts.append(context)
        return self.watching

    def record(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, StepFinished) and event.step == self.stop:
            raise RunStopped("enough")

    @property
    def steps(self) -> list[StepFinished]:
        return [event for event in self.events if isinstance(event, StepFinished)]

    @property
    def terms(self) -> list[float]:
        return [step.metrics["retention.term"] for step in self.steps]

    @property
    def messages(self) -> list[str]:
        found = [e for e in self.events if isinstance(e, FindingReported)]
        return [event.message for event in found if event.source == "retention"]

    def replayed(self) -> list[dict[str, str]]:
        """Return the lines of the log of replayed rows."""
        text = (self.folder / "replayed.jsonl").read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]

    def leaks(self, bases: dict[str, Tensor]) -> list[float]:
        """Return the leak of every applied update of every protected matrix."""
        updates = ((c[name], basis) for c in self.watching.changes for name, basis in bases.items())
        return [measure_leak(change, basis) for change, basis in updates]


def assert_same_weights(one: Training, other: Training) -> None:
    assert one.weights.keys() == other.weights.keys()
    assert all(torch.equal(tensor, other.weights[name]) for name, tensor in one.weights.items())


def draw_all(pool: Any, steps: int) -> Sequence[int]:
    """Return the rows of the first steps of a pool."""
    return [row for step in range(steps) for row in pool.draw(step)]

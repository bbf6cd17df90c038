"""Measure the test rows of earlier tasks again, with their own evaluators and settings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

from tunesmith.contracts import RunContext, TextModel
from tunesmith.errors import UsageError
from tunesmith.events import TUNED, Measured
from tunesmith.execution.emitter import Emitter, Reporters
from tunesmith.execution.evaluate import evaluate_model
from tunesmith.execution.wrapped_model import CachedModel
from tunesmith.fence import fence
from tunesmith.records import Record
from tunesmith.signals import StopSignalHandler
from tunesmith.storage import EventLog, RunFolder, write_atomic
from tunesmith_continual.chain import Task
from tunesmith_continual.matrix import Matrix
from tunesmith_evidence.pairs import list_metrics

FOLDER = "continual"
UNTRAINED = "zero-shot"
"""Name of the untrained base model among the measurements of a run."""


def read_matrix(chain: Sequence[Task], *, quiet: bool = False) -> Matrix:
    """Return the matrix of a chain; whatever was not measured yet is measured now.

    Raises:
        UsageError: the data of an earlier run has changed, or a run has no test score.
    """
    cells: dict[tuple[int, int], Measured] = {}
    for i, after in enumerate(chain):
        open_model = cache(lambda task=after: open_tuned(task))
        for j, task in enumerate(chain[: i + 1]):
            own = task.measured() if i == j else None
            # Values for other test rows, of a first task that was replaced since, are not reused.
            folder = after.path / FOLDER / f"{j}-{task.fingerprint[:12]}"
            cells[i, j] = own or _measure_once(task, open_model, folder, quiet)
    base = {j: event for j, task in enumerate(chain) if (event := task.measured(UNTRAINED))}
    return Matrix(name_tasks(chain), cells, base, list_metrics(chain[-1].catalog))


def name_tasks(chain: Sequence[Task]) -> list[str]:
    """Return the names of the tasks, those that occur twice with their number."""
    names = [task.name for task in chain]
    return [f"{n}-{k}" if names.count(n) > 1 else n for k, n in enumerate(names, 1)]


def _measure_once(task: Task, model: Any, folder: Path, quiet: bool) -> Measured:
    """Return a score on a task by its deciding metric, stored in ``folder`` after measuring."""
    path = folder / "measured.json"
    if path.is_file():
        stored = json.loads(path.read_text(encoding="utf-8"))
    else:
        if not task.is_unchanged:
            raise UsageError(
                f"{task.path}: its data has changed, so its test rows cannot be measured again",
                hint="restore the data; the scores before and after must be of the same rows",
            )
        folder.mkdir(parents=True, exist_ok=True)
        events = measure(task, model(), task.data.test, folder, quiet=quiet)
        stored = [asdict(event) for event in events]
        write_atomic(path, json.dumps(stored, indent=2) + "\n")
    found = next(e for e in stored if (e["evaluator"], e["metric"]) == task.deciding)
    return replace(Measured(**found), records=str(folder / found["records"]))


def measure(
    task: Task, model: TextModel, rows: Sequence[Record], folder: Path, *, quiet: bool
) -> list[Measured]:
    """Measure a model on rows of a task with the task's evaluators, and store each row's values."""
    shown = tuple(r for r in task.plan.reporters if r.offer.shows_progress and not quiet)
    plan = replace(task.plan, reporters=shown)
    context = RunContext(
        model=plan.found_model.fetch(),
        device=plan.run.device,
        artifacts={},
        open=lambda artifact: open_artifact(task, artifact),
        train=task.data.train,
        test=task.data.test,
        validation=task.data.validation,
    )
    measured: list[Measured] = []
    with (
        EventLog(folder / "events.jsonl") as log,
        StopSignalHandler() as interrupts,
        Reporters(plan, RunFolder(folder)) as reporters,
    ):
        emit = Emitter(log, reporters, (), interrupts)
        for evaluator in task.evaluators:
            plugin = plan.technique.offered.plugin
            measured += evaluate_model(TUNED, model, evaluator, rows, emit, context, folder, plugin)
    return measured


def open_tuned(task: Task) -> TextModel:
    """Load a run's tuned model.

    Raises:
        UsageError: the run has no trained model.
    """
    return CachedModel(open_artifact(task, find_artifact(task)))


def find_artifact(task: Task) -> Path:
    """Return the folder of a run's adapter or model.

    Raises:
        UsageError: the run has no trained model.
    """
    trained = task.report.training_finished.get("")
    if trained is None:
        raise UsageError(
            f"{task.path}: the run has no trained model yet",
            hint=f"tunesmith resume {task.path}",
        )
    return task.path / trained.artifact


def open_artifact(task: Task, artifact: Path | None) -> TextModel:
    """Load a folder with an adapter or model as a run does; None loads its base model."""
    plan = task.plan
    with fence(plan.technique.offered.plugin, "open", may_take_long=True):
        technique = plan.technique.offer.build(plan.technique.config)
        return technique.open(plan.found_model.fetch(), artifact, device=plan.run.device)

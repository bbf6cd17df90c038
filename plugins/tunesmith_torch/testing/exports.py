"""Helpers for tests of exporters: a model that has learned an answer, and damaged exports."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import pytest
import torch

from tunesmith.catalog import Catalog
from tunesmith.contracts import Job
from tunesmith.errors import GateError
from tunesmith.offers import TechniqueOffer
from tunesmith.options import from_table
from tunesmith.plugins import Selection, find_plugins
from tunesmith.records import Completion, Record
from tunesmith.storage import Checkpoints
from tunesmith_torch.export.contract import AdapterExporter, Exporter
from tunesmith_torch.export.export_run import (
    CERTIFICATE_FILE,
    Export,
    TrainedModel,
    export_run,
)
from tunesmith_torch.models.merging import MergeOptions
from tunesmith_torch.options.training import SupervisedOptions
from tunesmith_torch.training import trainer
from tunesmith_torch.training.supervised import SupervisedTask

__all__ = [
    "FULL_TRAINING_OPTIONS",
    "LORA_TRAINING_OPTIONS",
    "check_answers_end",
    "check_damage_is_found",
    "check_export",
    "damage_export",
    "make_json_damage",
    "make_template_damage",
    "run_readme",
    "train_for_export",
    "train_tiny",
]

TRAINING_OPTIONS = {"epochs": 24.0, "batch_size": 4, "precision": "fp32"}
"""Training options for a tiny model to learn the answer; the learning rate is missing."""
LORA_TRAINING_OPTIONS = {**TRAINING_OPTIONS, "learning_rate": 1e-2, "adapter": {"rank": 8}}
"""Options of the ``lora`` technique for a tiny model to learn the answer."""
FULL_TRAINING_OPTIONS = {**TRAINING_OPTIONS, "learning_rate": 5e-3}
"""Options of the ``full`` technique for a tiny model to learn the answer."""


def make_records(answer: str) -> tuple[Record, ...]:
    """Return twelve rows that all have the same answer."""
    return tuple(
        Completion(source=f"rows:{n}", prompt=f"Who is {n}?", completion=answer) for n in range(12)
    )


def train_for_export(
    options: SupervisedOptions, model: Path, folder: Path, answer: str = "one two three"
) -> TrainedModel:
    """Train a model in ``folder`` on eight rows; return it with four test rows, for an export."""
    records = make_records(answer)
    job: Job[Any] = Job(
        config=options, model=model, train=records[:8], validation=(), out=folder, seed=3,
        device="cpu",
        checkpoints=Checkpoints(folder / "checkpoints"), emit=lambda event: None, technique="test",
    )  # fmt: skip
    artifact = trainer.train(job, SupervisedTask())
    return TrainedModel(
        base=model,
        artifact=artifact.path,
        merge=MergeOptions(torch.device("cpu"), torch.float32),
        test=records[8:],
    )


def train_tiny(
    technique: Literal["lora", "full"], model: Path, folder: Path, **changes: Any
) -> TrainedModel:
    """Train a model in ``folder`` with a built-in technique; ``changes`` are further options."""
    catalog = Catalog(find_plugins(Selection(allowed=frozenset())))
    config = catalog.find(TechniqueOffer, technique).offer.config
    table = {**(LORA_TRAINING_OPTIONS if technique == "lora" else FULL_TRAINING_OPTIONS), **changes}
    return train_for_export(from_table(config, table), model, folder)


def check_export(trained: TrainedModel, export: Export, out: Path) -> dict[str, Any]:
    """Export a model to ``out``, check the certificate's tolerances, and return it."""
    certificate = export_run(trained, export, out)
    assert json.loads((out / CERTIFICATE_FILE).read_text(encoding="utf-8")) == certificate
    if export.tolerance is None:
        assert certificate["mean_kl_nats"] < 0.5 and certificate["max_logprob_difference_nats"] > 0
    else:
        assert certificate["max_logprob_difference_nats"] < export.tolerance
    return certificate


def check_damage_is_found(trained: TrainedModel, export: Export, folder: Path, check: str) -> None:
    """Assert that a damaged export fails this check and leaves nothing in ``folder``."""
    with pytest.raises(GateError, match=f"export, {check}:"):
        export_run(trained, export, folder / "out")
    assert list(folder.iterdir()) == []


def check_answers_end(
    model: Path, export: Export, folder: Path, place: str = "out"
) -> TrainedModel:
    """Train all weights until answers end; assert that they also end in the engine of an export."""
    trained = train_tiny("full", model, folder / "run")
    (folder / place).parent.mkdir(parents=True, exist_ok=True)
    certificate = export_run(trained, export, folder / place)
    assert certificate["checks"]["stop"] == "4 of 4 answers end at the same token"
    assert certificate["not_verified"] == []
    return trained


def run_readme(readme: Path, folder: Path) -> str:
    """Run the Python program in a README, which has only one, in ``folder``; return its output."""
    (program,) = re.findall(r"```python\n(.*?)```", readme.read_text(encoding="utf-8"), re.DOTALL)
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


ExporterT = TypeVar("ExporterT", bound=Exporter | AdapterExporter)


def damage_exporter(exporter: ExporterT, damage: Callable[[Path], None]) -> ExporterT:
    """Return a copy of an exporter that damages its files after writing them."""
    damaged = copy(exporter)
    for name in ("export", "export_adapter"):
        if hasattr(exporter, name):
            setattr(damaged, name, _damage_after(getattr(damaged, name), damage))
    return damaged


def _damage_after(
    write: Callable[..., None], damage: Callable[[Path], None]
) -> Callable[..., None]:
    def write_and_damage(*folders: Path) -> None:
        write(*folders)
        damage(folders[-1])

    return write_and_damage


def damage_export(export: Export, damage: Callable[[Path], None] | None) -> Export:
    """Return a copy of an export that damages its files after writing them.

    If ``damage`` is None, return the export itself.
    """
    if damage is None:
        return export
    return replace(export, exporter=damage_exporter(export.exporter, damage))


def make_template_damage(old: str, new: str) -> Callable[[Path], None]:
    """Return a damage function that replaces text in the chat template's file."""

    def damage(out: Path) -> None:
        path = out / "chat_template.jinja"
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")

    return damage


def make_json_damage(
    name: str, change: Callable[[dict[str, Any]], object]
) -> Callable[[Path], None]:
    """Return a damage function that changes the object in a JSON file."""

    def damage(out: Path) -> None:
        content = json.loads((out / name).read_text(encoding="utf-8"))
        change(content)
        (out / name).write_text(json.dumps(content), encoding="utf-8")

    return damage

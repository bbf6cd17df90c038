"""A checkpoint of another run, of another stage or beyond the plan is refused, with the reason."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tables import build

from tunesmith.contracts import Job
from tunesmith.errors import IntegrityError, RunStopped
from tunesmith.events import Event, StepFinished
from tunesmith.records import Completion
from tunesmith.storage import Checkpoints
from tunesmith_plugins.techniques.lora.options import LoraOptions
from tunesmith_torch.training import checkpoint_owner, trainer
from tunesmith_torch.training.checkpoint_owner import TRAINING_FILE, build_owner_meta
from tunesmith_torch.training.checkpoint_writer import CheckpointWriter
from tunesmith_torch.training.monitor import NoMonitor
from tunesmith_torch.training.supervised import SupervisedTask

RECORDS = tuple(
    Completion(source=f"rows:{n}", prompt=f"What is {n}?", completion="ten") for n in range(16)
)


def job(out: Path, model: Path, **changes: Any) -> Job[Any]:
    keys = {"epochs": 2, "batch_size": 4, "adapter__rank": 2, "precision": "fp32"}
    options = build(LoraOptions, **{**keys, "checkpoints__every": 1, **changes})
    out.mkdir(exist_ok=True)
    return Job(
        config=options, model=model, train=RECORDS, validation=(), out=out, seed=3, device="cpu",
        checkpoints=Checkpoints(out / "checkpoints"), emit=lambda event: None, technique="test",
    )  # fmt: skip


def stop_after(job: Job[Any], step: int) -> None:
    """Train until this step, and leave its checkpoint."""

    def emit(event: Event) -> None:
        if isinstance(event, StepFinished) and event.step == step:
            raise RunStopped("enough")

    with pytest.raises(RunStopped):
        trainer.train(replace(job, emit=emit), SupervisedTask())


def newest(job: Job[Any]) -> Path:
    checkpoint = job.checkpoints.newest()
    assert checkpoint is not None
    return checkpoint.path


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path, tiny_folder: Path) -> None:
    """Both runs have the same plan, so the checkpoint would fit in every other way."""
    one, other = (job(tmp_path / name, tiny_folder) for name in ("one", "other"))
    stop_after(one, 5)
    stop_after(other, 3)
    copied = other.checkpoints.folder / newest(one).name
    shutil.copytree(newest(one), copied)
    with pytest.raises(IntegrityError, match="was saved by another run") as caught:
        trainer.train(other, SupervisedTask())
    assert str(copied) in str(caught.value) and "move this folder" in str(caught.value.hint)
    shutil.rmtree(copied)
    trainer.train(other, SupervisedTask())


def test_a_copied_checkpoint_in_a_run_without_one_is_refused(
    tmp_path: Path, tiny_folder: Path
) -> None:
    one, other = (job(tmp_path / name, tiny_folder) for name in ("one", "other"))
    stop_after(one, 2)
    shutil.copytree(one.checkpoints.folder, other.checkpoints.folder)
    with pytest.raises(IntegrityError, match="was saved by another run"):
        trainer.train(other, SupervisedTask())


def test_a_copy_of_a_complete_run_folder_continues(tmp_path: Path, tiny_folder: Path) -> None:
    one = job(tmp_path / "one", tiny_folder)
    stop_after(one, 2)
    shutil.copytree(one.out, tmp_path / "moved")
    trainer.train(job(tmp_path / "moved", tiny_folder), SupervisedTask())


def test_a_checkpoint_beyond_the_plan_is_refused(tmp_path: Path, tiny_folder: Path) -> None:
    stop_after(job(tmp_path / "run", tiny_folder), 6)
    shorter = job(tmp_path / "run", tiny_folder, max_steps=4)
    with pytest.raises(IntegrityError, match="is at step 6, but the plan ends at step 4"):
        trainer.train(shorter, SupervisedTask())


def test_a_checkpoint_of_another_stage_is_refused(tmp_path: Path, tiny_folder: Path) -> None:
    first = job(tmp_path / "run", tiny_folder)
    stop_after(first, 2)
    with pytest.raises(IntegrityError, match='belongs to stage "", not to "policy"'):
        trainer.train(replace(first, stage="policy"), SupervisedTask())


def test_a_checkpoint_of_an_earlier_version_has_no_id_and_is_used(
    tmp_path: Path, tiny_folder: Path
) -> None:
    run = job(tmp_path / "run", tiny_folder)
    path = run.checkpoints.save(2, lambda folder: (folder / "x").write_text("") and None)
    (checkpoint,) = [c for c in [run.checkpoints.newest()] if c is not None]
    assert checkpoint.path == path
    checkpoint_owner.require_own_checkpoint(run, checkpoint, last_step=8)


def test_the_best_checkpoint_must_be_of_this_run_too(tmp_path: Path, tiny_folder: Path) -> None:
    run = job(tmp_path / "run", tiny_folder)
    meta = {**build_owner_meta(run), "training": "another"}
    run.checkpoints.save(
        1, lambda folder: (folder / "x").write_text("") and None, meta=meta, best=True
    )
    masters: Any = None  # nothing is restored
    writer = CheckpointWriter(run, masters, None, NoMonitor())
    with pytest.raises(IntegrityError, match="another run"):
        writer.apply_decision(8, "stop")


def test_the_id_stays_the_same(tmp_path: Path, tiny_folder: Path) -> None:
    run = job(tmp_path / "run", tiny_folder)
    assert build_owner_meta(run) == build_owner_meta(run)
    assert json.loads((run.out / TRAINING_FILE).read_text()) == {
        "id": build_owner_meta(run)["training"]
    }
    assert build_owner_meta(run) != build_owner_meta(job(tmp_path / "other", tiny_folder))

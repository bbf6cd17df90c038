"""Check that a checkpoint was saved by the same run, and by the same stage of it.

A run, or each stage of it, writes a random id into :data:`TRAINING_FILE` of its folder and into
each checkpoint. A checkpoint copied from another run may fit the model and pass its checksums, but
training would continue from weights and random states that this run never had.
"""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

from tunesmith.contracts import Job
from tunesmith.errors import IntegrityError
from tunesmith.events import JSON
from tunesmith.storage import Checkpoint, write_atomic

TRAINING_FILE = "training.json"
"""File in a job's folder that stores the id of its training."""


def build_owner_meta(job: Job[Any]) -> JSON:
    """Return the facts that tie a checkpoint to the job; the first call creates the id."""
    found = _read_id(job.out)
    if not found:
        found = secrets.token_hex(8)
        write_atomic(job.out / TRAINING_FILE, json.dumps({"id": found}) + "\n")
    return {"training": found, "stage": job.stage}


def require_own_checkpoint(job: Job[Any], checkpoint: Checkpoint, last_step: int | None) -> None:
    """Check that this job saved the checkpoint, and that the plan reaches its step.

    ``last_step`` is the last step of the plan, or None if unknown. Checkpoints of earlier versions
    have no id and pass.

    Raises:
        IntegrityError: the checkpoint belongs to another run or stage, or lies beyond the plan.
    """
    meta = checkpoint.meta
    problem = ""
    if meta.get("stage", job.stage) != job.stage:
        problem = f'belongs to stage "{meta["stage"]}", not to "{job.stage}"'
    elif "training" in meta and meta["training"] != _read_id(job.out):
        problem = "was saved by another run"
    elif last_step is not None and checkpoint.step > last_step:
        problem = f"is at step {checkpoint.step}, but the plan ends at step {last_step}"
    if problem:
        raise IntegrityError(
            f"{checkpoint.path}: the checkpoint {problem}, so training cannot continue from it",
            hint="move this folder out of the run to continue from the previous checkpoint",
        )


def _read_id(folder: Path) -> str:
    """Return the id of the training in this folder, or "" if the folder has no id."""
    try:
        found = json.loads((folder / TRAINING_FILE).read_text(encoding="utf-8"))["id"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""
    return str(found)

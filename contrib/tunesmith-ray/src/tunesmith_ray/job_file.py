"""``ray/job.json`` in a run folder: the state of the run's newest job, as its supervisor has it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from tunesmith.errors import UsageError
from tunesmith.storage import write_atomic

SCHEMA = "tunesmith.ray-job/1"
State = Literal["submitted", "waiting", "running", "finished", "failed", "stopped"]
"""waiting: for machines with what the workers ask for."""
ACTIVE: Sequence[State] = ("submitted", "waiting", "running")


@dataclass(frozen=True)
class Job:
    """The newest job of a run."""

    name: str
    """Name of its supervisor among Ray's actors."""
    address: str | None
    """The cluster as it was given; None: Ray's default."""
    submitted: str
    """Time, ISO 8601."""
    state: State = "submitted"
    starts: int = 0
    hosts: Sequence[str] = ()
    """Machine of each worker of the newest start."""
    exit_code: int | None = None
    """Exit code of the run; None while it is active."""
    failed_rank: int | None = None
    """The process that has failed, whose log says why."""
    reason: str = ""
    """Why it has ended, or was started again."""

    @property
    def is_active(self) -> bool:
        return self.state in ACTIVE

    def write(self, folder: Path) -> None:
        """Write it below a run folder."""
        path = job_folder(folder) / "job.json"
        path.parent.mkdir(exist_ok=True)
        write_atomic(path, json.dumps({"schema": SCHEMA, **asdict(self)}, indent=2) + "\n")


def job_folder(folder: Path) -> Path:
    """Return the folder with the job and the logs of a run."""
    return folder / "ray"


def find_job(folder: Path) -> Job | None:
    """Return the newest job of a run; None if none was submitted.

    Raises:
        UsageError: the file is damaged.
    """
    path = job_folder(folder) / "job.json"
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        job = Job(**{field.name: content[field.name] for field in dataclasses.fields(Job)})
        is_sound = isinstance(job.name, str) and job.state in get_args(State)
    except (ValueError, TypeError, KeyError):
        is_sound = False
    if not is_sound:
        raise UsageError(f"{path}: is not what tunesmith wrote", hint="delete it")
    return job

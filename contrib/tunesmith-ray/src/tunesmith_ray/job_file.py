"""Read and write ``ray/job.json`` in a run folder, the state of the run's newest job.

The supervisor writes the file. While the job is active, it touches the file every few seconds as a
heartbeat, because other clusters cannot query the supervisor.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from tunesmith.storage import write_atomic
from tunesmith_cli.launch import read_job, write_job

State = Literal["submitted", "waiting", "running", "finished", "failed", "stopped"]
"""``waiting`` means waiting for machines with the resources that the workers need."""
ACTIVE_STATES: Sequence[State] = ("submitted", "waiting", "running")
HEARTBEAT_SECONDS = 2.0
"""Seconds between two heartbeats of a supervisor."""
HEARTBEAT_TIMEOUT_SECONDS = 20.0
"""Seconds without a heartbeat after which an unreachable supervisor counts as lost."""


@dataclass(frozen=True)
class Job:
    """The newest Ray job of a run: where it runs, its state and how it ended."""

    name: str
    """Name of the job's supervisor among Ray's actors."""
    address: str | None
    """Address of the cluster as the user gave it, or None for Ray's default."""
    submitted: str
    """Time of submission, ISO 8601."""
    state: State = "submitted"
    starts: int = 0
    hosts: Sequence[str] = ()
    """Machine of each worker in the newest start."""
    exit_code: int | None = None
    """Exit code of the run, or None while the job is active."""
    failed_rank: int | None = None
    """Rank of the failed process, whose log shows the reason."""
    reason: str = ""
    """The reason why the job ended or was restarted."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or self.state not in get_args(State):
            raise ValueError(
                f"name must be a string and state one of {', '.join(get_args(State))}, got "
                f"{self.name!r:.60} and {self.state!r:.60}"
            )

    @property
    def is_active(self) -> bool:
        return self.state in ACTIVE_STATES

    def write(self, folder: Path) -> None:
        """Write the job file into a run folder."""
        write_job(folder, "ray", self)


def send_heartbeat(folder: Path) -> None:
    """Touch the job file, as a heartbeat."""
    with suppress(OSError):
        os.utime(job_folder(folder) / "job.json")


def is_heartbeat_missing(folder: Path, sleep: Callable[[float], None] = time.sleep) -> bool:
    """Wait for a heartbeat of the supervisor, and return False if there is one.

    The file's time is only compared with its earlier time, so clock skew does not matter.
    """
    path = job_folder(folder) / "job.json"
    deadline, seen = time.monotonic() + HEARTBEAT_TIMEOUT_SECONDS, path.stat().st_mtime_ns
    while path.stat().st_mtime_ns == seen:
        if time.monotonic() > deadline:
            return True
        sleep(HEARTBEAT_SECONDS / 4)
    return False


def request_cancel(folder: Path, name: str) -> None:
    """Ask a supervisor to stop its run, even if Ray recreates the supervisor."""
    job_folder(folder).mkdir(exist_ok=True)
    write_atomic(job_folder(folder) / "cancelled", name)


def is_cancel_requested(folder: Path, name: str) -> bool:
    """Return True if this supervisor was asked to stop its run."""
    try:
        return (job_folder(folder) / "cancelled").read_text(encoding="utf-8") == name
    except FileNotFoundError:
        return False


def job_folder(folder: Path) -> Path:
    """Return the folder for the job file and the logs of a run."""
    return folder / "ray"


def find_job(folder: Path) -> Job | None:
    """Return the newest job of a run, or None if none was submitted.

    Raises:
        UsageError: the job file is damaged.
    """
    return read_job(folder, "ray", Job)

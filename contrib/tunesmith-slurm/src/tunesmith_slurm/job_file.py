"""``slurm/job.json`` in a run folder: which job works on the run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tunesmith_cli.launch import read_job


@dataclass(frozen=True)
class SubmittedJob:
    """The newest job of a run."""

    job: str
    """Its number in Slurm."""
    submitted: str
    """Time, ISO 8601."""

    def __post_init__(self) -> None:
        if not (isinstance(self.job, str) and self.job.isascii() and self.job.isdigit()):
            raise ValueError("job")

    def log(self, folder: Path) -> Path:
        """Return the path of what the job prints; it exists once the job has begun."""
        return folder / "slurm" / f"{self.job}.log"


def find_job(folder: Path) -> SubmittedJob | None:
    """Return the newest job of a run; None if none was submitted.

    Raises:
        UsageError: the file is damaged.
    """
    return read_job(folder, "slurm", SubmittedJob)

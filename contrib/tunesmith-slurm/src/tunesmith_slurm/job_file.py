"""Read ``slurm/job.json`` in a run folder, which records the run's newest job."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tunesmith_cli.launch import read_job


@dataclass(frozen=True)
class SubmittedJob:
    """Number and submission time of the newest Slurm job of a run."""

    job: str
    """Slurm's job number."""
    submitted: str
    """Time of submission, ISO 8601."""

    def __post_init__(self) -> None:
        if not (isinstance(self.job, str) and self.job.isascii() and self.job.isdigit()):
            raise ValueError("job")

    def log(self, folder: Path) -> Path:
        """Return the path of the job's output, which exists once the job has started."""
        return folder / "slurm" / f"{self.job}.log"


def find_job(folder: Path) -> SubmittedJob | None:
    """Return the newest job of a run, or None if none was submitted.

    Raises:
        UsageError: the job file is damaged.
    """
    return read_job(folder, "slurm", SubmittedJob)

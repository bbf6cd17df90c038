"""``slurm/job.json`` in a run folder: which job works on the run."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from tunesmith.errors import UsageError
from tunesmith.storage import write_atomic

SCHEMA = "tunesmith.slurm-job/1"


@dataclass(frozen=True)
class SubmittedJob:
    """The newest job of a run."""

    job: str
    """Its number in Slurm."""
    submitted: str
    """Time, ISO 8601."""

    def write(self, folder: Path) -> None:
        """Write it below a run folder."""
        text = json.dumps({"schema": SCHEMA, **asdict(self)}, indent=2)
        write_atomic(job_folder(folder) / "job.json", text + "\n")

    def log(self, folder: Path) -> Path:
        """Return the path of what the job prints; it exists once the job has begun."""
        return job_folder(folder) / f"{self.job}.log"


def job_folder(folder: Path) -> Path:
    """Return the folder with script, log and number of the jobs of a run."""
    return folder / "slurm"


def find_job(folder: Path) -> SubmittedJob | None:
    """Return the newest job of a run; None if none was submitted.

    Raises:
        UsageError: the file is damaged.
    """
    path = job_folder(folder) / "job.json"
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        job, submitted = content["job"], content["submitted"]
    except (ValueError, TypeError, KeyError):
        raise UsageError(f"{path}: is not what tunesmith wrote", hint="delete it") from None
    if not (isinstance(job, str) and job.isascii() and job.isdigit()):
        raise UsageError(f"{path}: `job` is no number of a job", hint="delete it")
    return SubmittedJob(job, str(submitted))

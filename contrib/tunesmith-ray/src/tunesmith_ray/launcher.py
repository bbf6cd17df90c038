"""Query and cancel jobs on a Ray cluster, for the commands that all launchers share."""

from __future__ import annotations

from pathlib import Path

from tunesmith_cli.launch_commands import JobCommands, JobStatus
from tunesmith_ray.follow import mark_as_lost
from tunesmith_ray.job_file import Job, find_job, is_heartbeat_missing, request_cancel
from tunesmith_ray.worker import log_path


def query(folder: Path, job: Job) -> JobStatus:
    """Return the status of a job from its file, or as failed if its supervisor is gone."""
    job = check_supervisor(folder, job) if job.is_active else job
    facts = {
        "submitted": job.submitted,
        "state": job.state,
        "reason": job.reason,
        "machines": ", ".join(dict.fromkeys(job.hosts)),
        "starts": str(job.starts) if job.starts else "",
    }
    content = {
        "submitted": job.submitted,
        "state": job.state,
        "is_active": job.is_active,
        "reason": job.reason,
        "hosts": list(job.hosts),
        "starts": job.starts,
        "exit_code": job.exit_code,
        "failed_rank": job.failed_rank,
    }
    return JobStatus(job.is_active, facts, content, rank=job.failed_rank or 0)


def check_supervisor(folder: Path, job: Job) -> Job:
    """Return the job, marked as failed if its supervisor is gone and sends no heartbeats."""
    from tunesmith_ray import cluster

    with cluster.connect(job.address):
        is_here = cluster.find_supervisor(job.name) is not None
    return reread_job(folder, job, is_lost=not is_here and is_heartbeat_missing(folder))


def reread_job(folder: Path, job: Job, *, is_lost: bool) -> Job:
    """Read the job again, because its supervisor may have ended it; mark it as lost on request."""
    job = find_job(folder) or job
    return mark_as_lost(folder, job) if is_lost and job.is_active else job


def cancel(folder: Path, job: Job) -> str:
    """Ask the supervisor to stop the run. Its processes have ray.grace_seconds to save."""
    if not job.is_active:
        return f"the run has ended: {job.state}"
    # The supervisor reads this file, even if Ray recreated it or it runs on another cluster.
    request_cancel(folder, job.name)
    if is_heartbeat_missing(folder):
        return "the run has ended: its supervisor was lost"
    return "the run stops after its current step"


LAUNCHER = JobCommands(
    "ray", find_job, query, cancel, lambda folder, job, rank: log_path(folder, rank), has_ranks=True
)
STATUS, LOGS, CANCEL = (
    LAUNCHER.status_command(),
    LAUNCHER.logs_command(),
    LAUNCHER.cancel_command(),
)

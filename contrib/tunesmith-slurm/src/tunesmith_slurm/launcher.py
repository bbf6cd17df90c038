"""Query and cancel Slurm jobs, for the commands that all launchers share."""

from __future__ import annotations

from pathlib import Path

from tunesmith_cli.launch_commands import JobCommands, JobStatus
from tunesmith_slurm import programs
from tunesmith_slurm.job_file import SubmittedJob, find_job
from tunesmith_slurm.programs import JobState


def query(folder: Path, job: SubmittedJob) -> JobStatus:
    """Return the status of a job according to Slurm."""
    state = programs.query_job(job.job)
    facts = {
        "job": f"{job.job}, submitted {job.submitted}",
        "state": state.state.lower(),
        "reason": state.reason,
        "node": state.nodes,
        "time": describe_time(state),
    }
    content = {
        "job": job.job,
        "submitted": job.submitted,
        "state": state.state,
        "reason": state.reason,
        "nodes": state.nodes,
        "is_active": state.is_active,
    }
    return JobStatus(state.is_active, facts, content)


def describe_time(state: JobState) -> str:
    """Format the elapsed time of the job, and the time left before its limit."""
    is_limited = state.is_active and state.time_left not in ("", "UNLIMITED", "NOT_SET", "INVALID")
    return f"{state.elapsed}, {state.time_left} left" if is_limited else state.elapsed


def cancel(folder: Path, job: SubmittedJob) -> str:
    """Cancel the job. Slurm gives it KillWait seconds to stop (30 by default)."""
    state = programs.query_job(job.job)
    if not state.is_active:
        return f"job {job.job} has ended: {state.state.lower()}"
    programs.cancel_job(job.job)
    return f"canceled job {job.job}"


LAUNCHER = JobCommands("slurm", find_job, query, cancel, lambda folder, job, rank: job.log(folder))
STATUS, LOGS, CANCEL = (
    LAUNCHER.status_command(),
    LAUNCHER.logs_command(),
    LAUNCHER.cancel_command(),
)

"""Call Slurm's programs: sbatch, squeue, sacct, scancel and scontrol."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tunesmith.errors import EnvironmentProblem
from tunesmith.text import one_line

TIMEOUT = 120.0
"""Seconds to wait for a program, because a busy controller can be slow."""
WAITING_STATES = frozenset({"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED"})
RUNNING_STATES = frozenset({"RUNNING", "COMPLETING", "STAGE_OUT", "SIGNALING", "STOPPED"})


@dataclass(frozen=True)
class JobState:
    """The state of a job according to Slurm."""

    state: str
    """Slurm's state, such as PENDING, RUNNING, COMPLETED, FAILED or TIMEOUT.

    It is ``unknown`` if Slurm no longer knows the job.
    """
    reason: str = ""
    """The reason why the job is waiting, or why its state is unknown."""
    elapsed: str = ""
    time_left: str = ""
    nodes: str = ""

    @property
    def is_active(self) -> bool:
        """True while the job is waiting or running."""
        return self.state in WAITING_STATES | RUNNING_STATES


UNKNOWN = "unknown"


def submit_script(script: Path) -> str:
    """Submit a script, and return the number of the job.

    Raises:
        EnvironmentProblem: Slurm is not installed, or rejected the job.
    """
    # With several clusters, the answer is NUMBER;CLUSTER.
    return _call(["sbatch", "--parsable", str(script)]).strip().partition(";")[0]


def query_job(job: str) -> JobState:
    """Return the state of a job from the queue or, some minutes after its end, from accounting."""
    columns = ["%T", "%r", "%M", "%L", "%N"]
    command = [
        "squeue",
        "--noheader",
        "--states=all",
        f"--jobs={job}",
        f"--format={'|'.join(columns)}",
    ]
    try:
        lines = _call(command).splitlines()
    except EnvironmentProblem as error:
        if "Invalid job id" not in error.message:  # the error of squeue for old jobs
            raise
        lines = []
    if not lines:
        return _query_accounting(job)
    state, reason, elapsed, left, nodes = (*lines[0].split("|"), "", "", "", "")[:5]
    return JobState(state, "" if reason == "None" else reason, elapsed, left, nodes)


def _query_accounting(job: str) -> JobState:
    """Return the state of a finished job from accounting, or unknown without accounting."""
    command = ["sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={job}"]
    gone = f"squeue no longer lists job {job}"
    try:
        lines = _call([*command, "--format=State,Elapsed,NodeList"]).splitlines()
    except EnvironmentProblem as error:  # There is no accounting, or sacct is not installed here.
        return JobState(UNKNOWN, f"{gone}, and accounting is not available: {error.message}")
    if not lines:
        return JobState(UNKNOWN, f"{gone}, and accounting (sacct) does not list it either")
    state, elapsed, nodes = (*lines[-1].split("|"), "", "")[:3]
    return JobState(state.split()[0], elapsed=elapsed, nodes=nodes)  # CANCELLED by 1000


def cancel_job(job: str) -> None:
    """Cancel a waiting or running job."""
    _call(["scancel", job])


def requeue_job(job: str) -> None:
    """Requeue a running job."""
    _call(["scontrol", "requeue", job])


def _call(command: Sequence[str]) -> str:
    """Call a program, and return its standard output.

    Raises:
        EnvironmentProblem: the program is not installed, failed, or did not answer.
    """
    name = command[0]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT, check=False
        )
    except FileNotFoundError:
        raise EnvironmentProblem(
            f"{name}: command not found",
            hint="run this command on a machine of the cluster, where Slurm is installed",
        ) from None
    except subprocess.TimeoutExpired:
        raise EnvironmentProblem(
            f"{name}: no answer within {TIMEOUT:g} seconds",
            hint="the Slurm controller may be busy: try again later",
        ) from None
    if done.returncode:
        text = one_line(done.stderr.strip() or f"exit code {done.returncode}", 400)
        raise EnvironmentProblem(f"{name}: {text.removeprefix(f'{name}: ')}")
    return done.stdout

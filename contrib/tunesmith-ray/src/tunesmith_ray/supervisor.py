"""Supervise a run: start its workers, and restart them when one is lost.

If a process is lost, Ray also loses results that the process has not reported. Therefore workers
report nothing to Ray, and checkpoints and events are only in the run folder. Each start, even the
first one, is a ``tunesmith resume`` in every process. The supervisor decides by exit codes alone.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

from tunesmith import api
from tunesmith.errors import TunesmithError
from tunesmith.signals import STOP_SIGNALS
from tunesmith_ray.job_file import Job, State, find_job
from tunesmith_ray.work import Work

ExitCodes = Sequence[int | None]
"""Exit code of each process by rank, or None if its worker was lost."""
TIME_LIMIT = 75
"""Exit code of a run that reached ``max_minutes``."""
Verdict = Literal["finished", "failed", "stopped", "lost"]


class StartWorkers(Protocol):
    """A function that starts all processes of a run once, and returns their exit codes."""

    def __call__(self, work: Work, has_begun: Callable[[Sequence[str]], None]) -> ExitCodes:
        """Call ``has_begun`` with the workers' machines; return no codes if canceled earlier."""
        ...


@dataclass(frozen=True)
class Outcome:
    """The result of one start of a run."""

    verdict: Verdict
    exit_code: int
    failed_rank: int | None = None
    reason: str = ""


class SupersededError(Exception):
    """Raised if the run has a newer job, so this supervisor must not change the job file."""


def supervise(
    work: Work, name: str, start: StartWorkers, is_cancelled: Callable[[], bool]
) -> Job | None:
    """Start the run until it ends or has lost processes too often, and return the final job.

    Write every change of the job to the run folder. A supervisor that was itself restarted counts
    the start that it finds there, and stops the run if a user already requested this. ``name`` is
    the name of its job. If the run has a newer job, write nothing, and return None.
    """
    with suppress(SupersededError):
        return _supervise(work, name, start, is_cancelled)
    return None


def _supervise(work: Work, name: str, start: StartWorkers, is_cancelled: Callable[[], bool]) -> Job:
    folder = Path(work.folder)
    job = find_own_job(folder, name)
    while job.is_active:
        if is_cancelled():
            job = update_job(job, judge_exit_codes([], is_cancelled=True), work)
            job.write(folder)
            break
        job = replace(job, state="waiting", starts=job.starts + 1, hosts=())
        job.write(folder)

        def has_begun(hosts: Sequence[str], job: Job = job) -> None:
            find_own_job(folder, name)
            replace(job, state="running", hosts=tuple(hosts)).write(folder)

        try:
            outcome = judge_exit_codes(start(work, has_begun), is_cancelled())
        except SupersededError:
            raise
        except Exception as error:  # of Ray, or a bug: commands wait for the end of the job
            outcome = Outcome("failed", 1, reason=f"{type(error).__name__}: {error}")
        if has_finished(folder):  # even if the run was lost or stopped at that moment
            outcome = Outcome("finished", 0)
        job = update_job(find_own_job(folder, name), outcome, work)
        job.write(folder)
    return job


def find_own_job(folder: Path, name: str) -> Job:
    """Return the job of the supervisor with this name.

    Raises:
        RuntimeError: the run has no job.
        SupersededError: the run has a newer job.
    """
    job = find_job(folder)
    if job is None:
        raise RuntimeError(f"{folder}: the job file is missing")
    if job.name != name:
        raise SupersededError
    return job


def judge_exit_codes(codes: ExitCodes, is_cancelled: bool) -> Outcome:
    """Return how a start ended, judging by the exit codes of its processes.

    The exit code of rank 0 counts for all ranks, unless it only stopped because another rank
    failed. A process that a signal killed counts as lost, for example because its machine was lost
    or memory ran out.
    """
    if not codes:
        return Outcome(
            "stopped", 128 + signal.SIGTERM, reason="the run was canceled before it started"
        )
    if codes[0] == 0:
        return Outcome("finished", 0)
    stop_codes = {128 + number for number in STOP_SIGNALS}
    lost = [rank for rank, code in enumerate(codes) if code is None or code > 128]
    lost = [rank for rank in lost if codes[rank] not in stop_codes]
    if is_cancelled:
        return Outcome("stopped", codes[0] or 128 + signal.SIGKILL, reason="canceled")
    if lost:
        code = codes[lost[0]]
        how = "its worker was lost" if code is None else f"killed by {name_signal(code - 128)}"
        return Outcome("lost", code or 128 + signal.SIGKILL, lost[0], f"rank {lost[0]}: {how}")
    failed = [rank for rank, code in enumerate(codes) if code and code not in stop_codes]
    rank = failed[0] if failed else 0
    if rank == 0 and codes[0] in {TIME_LIMIT, *stop_codes}:
        return Outcome("stopped", codes[0] or 1, reason="the run stopped before its end")
    return Outcome("failed", codes[rank] or 1, rank, f"rank {rank}: exit code {codes[rank]}")


def name_signal(number: int) -> str:
    """Return the name of a signal, or its number if it has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def update_job(job: Job, outcome: Outcome, work: Work) -> Job:
    """Return the job after a start. It is still active if the run must be restarted."""
    ended = replace(job, failed_rank=outcome.failed_rank, reason=outcome.reason)
    if outcome.verdict == "lost":
        if job.starts <= work.max_failures:
            return replace(ended, state="waiting")
        reason = f"{outcome.reason}; started {job.starts} times"
        return replace(ended, state="failed", exit_code=outcome.exit_code, reason=reason)
    state: State = outcome.verdict
    return replace(ended, state=state, exit_code=outcome.exit_code)


def has_finished(folder: Path) -> bool:
    """Return True if the run folder contains a finished run, however its processes ended."""
    try:
        return api.read_report(folder).status == "ok"
    except TunesmithError:
        return False

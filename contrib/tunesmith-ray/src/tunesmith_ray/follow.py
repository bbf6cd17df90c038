"""Print the state of a run on a Ray cluster, and the output of its rank 0."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from tunesmith_cli import render
from tunesmith_ray.job_file import Job, find_job, request_cancel
from tunesmith_ray.supervisor import has_finished
from tunesmith_ray.worker import log_path

POLL_SECONDS = 0.3
ALIVE_SECONDS = 10.0
"""Seconds between two checks that the supervisor is alive."""


@dataclass
class Follower:
    """Prints the new lines of a growing log file."""

    path: Path
    position: int = 0
    rest: bytes = b""

    @classmethod
    def from_end(cls, path: Path) -> Follower:
        """Return a follower that starts at the current end of the file."""
        return cls(path, path.stat().st_size if path.is_file() else 0)

    def print_new(self) -> None:
        """Print the lines that were completed since the last call."""
        if not self.path.is_file():
            return
        with self.path.open("rb") as stream:
            stream.seek(self.position)
            new = stream.read()
        self.position += len(new)
        *lines, self.rest = (self.rest + new).split(b"\n")
        for line in lines:
            render.print_note(line.decode(errors="replace").rstrip("\r"))


def wait_for_job(
    folder: Path,
    *,
    is_alive: Callable[[], bool],
    sleep: Callable[[float], None] = time.sleep,
) -> Job:
    """Show the progress of a run's job until the job has ended, and return the job.

    Ctrl-C cancels the job. A second Ctrl-C only ends the wait, because the request to stop is
    already in the run folder. ``is_alive`` checks the supervisor, because only the supervisor can
    end a job. If the supervisor was lost (with the cluster, for example), return the job as failed.
    """
    follower = Follower.from_end(log_path(folder, 0))
    shown: tuple[object, ...] = ()
    checked, was_cancelled = time.monotonic(), False
    while True:
        try:
            job = find_job(folder)
            assert job is not None
            if shown != (now := (job.state, job.starts)):
                shown = now
                show_state(job)
            follower.print_new()
            if not job.is_active:
                return job
            if time.monotonic() - checked > ALIVE_SECONDS:
                checked = time.monotonic()
                if not is_alive() and (job := find_job(folder) or job).is_active:
                    return mark_as_lost(folder, job)
            sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            if was_cancelled:
                raise
            was_cancelled = True
            render.print_note(
                "\nStopping after the current step. Press Ctrl-C again to return now; the run "
                "still stops.\n"
            )
            if job := find_job(folder):
                request_cancel(folder, job.name)


def mark_as_lost(folder: Path, job: Job) -> Job:
    """Return the job as failed because its supervisor is gone, unless the run has finished."""
    if has_finished(folder):
        return replace(job, state="finished", exit_code=0, reason="")
    return replace(job, state="failed", exit_code=1, reason="the supervisor was lost")


def show_state(job: Job) -> None:
    """Print the state that a job has reached."""
    if job.state == "waiting" and job.reason:
        render.print_note(f"{job.reason}: start {job.starts}", style="warning")
    elif job.state == "waiting":
        render.print_note("waiting for machines")
    elif job.state == "running":
        render.print_note(f"running on {', '.join(dict.fromkeys(job.hosts))}")

"""Continue the run in the process of a job, and requeue the job if it is interrupted.

``python -m tunesmith_slurm.job RUN`` is the last line of the script. It runs ``tunesmith resume``,
which also starts a new run. For several processes, it uses torchrun.

- Before the time limit, Slurm sends USR1 to this process, which passes the signal on. The run
  finishes its step, saves a checkpoint and exits. Then this process requeues the job.
- When Slurm itself ends a job (preemption, ``scontrol requeue``, ``scancel``), it sends TERM to
  every process of the job. This process then passes nothing on, and Slurm determines what happens
  to the job.
- If a node fails, Slurm requeues the job. A process of the earlier start may still be alive and
  hold the run's lock, so this process waits for the lock.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

from tunesmith import api
from tunesmith.errors import EnvironmentProblem, TunesmithError
from tunesmith.signals import STOP_SIGNALS, restore_handlers
from tunesmith_cli.launch import print_error, wait_for_lock
from tunesmith_slurm import programs


@dataclass(frozen=True)
class Work:
    """The work of a job: the run, the number of processes, and the limits."""

    folder: Path
    """The run folder."""
    processes: int = 1
    max_requeues: int = 0
    shutdown_seconds: int = 120
    """Seconds for torchrun to wait until all ranks have stopped."""

    def command(self) -> list[str]:
        """Return the command that continues the run."""
        resume = ["-m", "tunesmith", "resume", str(self.folder)]
        if self.processes == 1:
            return [sys.executable, *resume]
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        torchrun += ["--nproc-per-node", str(self.processes)]
        torchrun += ["--shutdown-timeout", str(self.shutdown_seconds)]
        # Slurm already sends TERM to every rank. One from torchrun would be the second TERM, which
        # ends a rank immediately; a second USR1 has no effect.
        return [*torchrun, "--signals-to-handle", "SIGUSR1", *resume]


@dataclass(frozen=True)
class Outcome:
    """The result of a run's process, with its exit code."""

    exit_code: int
    """Exit code; 128 plus the signal number if a signal ended it."""
    was_asked: bool
    """True if this job received a stop signal."""

    @property
    def is_interrupted(self) -> bool:
        """True if the job's stop signal stopped the run, so that the job must be requeued.

        False if the run reached ``max_minutes`` (exit code 75), failed or lost a rank.
        """
        return self.was_asked and self.exit_code - 128 in STOP_SIGNALS


def main(arguments: Sequence[str] | None = None) -> int:
    """Execute the run of a job, and return the job's exit code."""
    work = parse_arguments(arguments)
    restarts = int(os.environ.get("SLURM_RESTART_COUNT") or 0)
    if restarts:
        report(f"start {restarts + 1} of this job")
    try:
        wait_for_lock(work.folder, report)
        outcome = run_child(work.command())
        if work.processes > 1 and 0 < outcome.exit_code < 128:
            outcome = replace(outcome, exit_code=exit_code_of_run(work.folder, outcome.exit_code))
        if outcome.is_interrupted:
            requeue(work, restarts)
    except TunesmithError as error:
        return print_error(error, report)
    return outcome.exit_code


def parse_arguments(arguments: Sequence[str] | None) -> Work:
    """Parse the command line in a job's script."""
    parser = argparse.ArgumentParser("tunesmith_slurm.job")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--max-requeues", type=int, default=0)
    parser.add_argument("--shutdown-seconds", type=int, default=120)
    parser.add_argument("folder", type=Path)
    return Work(**vars(parser.parse_args(arguments)))


def run_child(command: Sequence[str]) -> Outcome:
    """Run a process, pass stop signals on to it, and return how it ended."""
    asked = False
    child: subprocess.Popen[bytes] | None = None

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        if number == signal.SIGUSR1 and child is not None:
            report("the time limit is near: the run stops after its current step")
            child.send_signal(number)

    numbers = int(signal.SIGUSR1), int(signal.SIGTERM)
    earlier = {number: signal.signal(number, stop) for number in numbers}
    try:
        # Do not import modules from the folder where the job was submitted, which may contain a
        # json.py.
        environment = {**os.environ, "PYTHONSAFEPATH": "1"}
        child = subprocess.Popen(command, env=environment, preexec_fn=_ignore_term)
        code = child.wait()
    finally:
        restore_handlers(earlier)
    return Outcome(128 - code if code < 0 else code, asked)


def _ignore_term() -> None:
    """Let torchrun survive the TERM sent to every process. tunesmith sets its own handler."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def exit_code_of_run(folder: Path, code: int) -> int:
    """Return the run's exit code, which torchrun hides, or ``code`` if the run has not ended.

    If the run ends at the moment torchrun receives a signal, it still counts as finished.
    """
    finished = api.read_report(folder).finished
    return finished.exit_code if finished else code


def requeue(work: Work, restarts: int) -> None:
    """Requeue the job, unless Slurm ended it or it was requeued too often.

    Raises:
        EnvironmentProblem: Slurm rejected the request, or did not answer.
    """
    job = os.environ.get("SLURM_JOB_ID", "")
    if not job:
        return
    if restarts >= work.max_requeues:
        report(
            f"not requeued: this was start {restarts + 1}, and max_requeues is "
            f"{work.max_requeues}; continue with `tunesmith slurm submit RUN`"
        )
        return
    # A canceled job must not come back, and Slurm itself brings back a preempted job.
    if programs.query_job(job).state != "RUNNING":
        return
    try:
        programs.requeue_job(job)
    except EnvironmentProblem as error:
        error.hint = "continue with: tunesmith slurm submit RUN"
        raise
    report(f"requeued job {job}")


def report(text: str) -> None:
    """Print a line to the log of the job."""
    print(f"tunesmith-slurm: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

"""Become a process of a run, which executes ``tunesmith resume`` as under torchrun.

``python -m tunesmith_ray.rank --parent PID RUN`` asks the kernel to end it with the worker that
started it, and then replaces itself with the run. A lost worker therefore leaves no process behind
that trains or keeps the run locked.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from tunesmith.errors import TunesmithError
from tunesmith_cli.launch import (
    print_error,
    signal_at_end_of_parent,
    wait_for_lock,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Become a process of the run. Return an exit code only on failure."""
    parser = argparse.ArgumentParser("tunesmith_ray.rank")
    parser.add_argument("--parent", type=int, required=True, help="process id of the worker")
    parser.add_argument(
        "--wait", action="store_true", help="wait until no other process uses the run"
    )
    parser.add_argument("folder", type=Path)
    parsed = parser.parse_args(arguments)
    end_with_parent(parsed.parent)
    if parsed.wait:
        try:
            wait_for_lock(parsed.folder, report)
        except TunesmithError as error:
            return print_error(error, report)
    command = [sys.executable, *resume_arguments(parsed.folder)]
    return os.execv(command[0], command)  # noqa: S606 - no shell is wanted


def build_command(folder: Path, rank: int) -> list[str]:
    """Return the command that starts a process of the run on this worker."""
    command = [sys.executable, "-P", "-m", "tunesmith_ray.rank", "--parent", str(os.getpid())]
    # Rank 0 on a machine that Ray has lost may still be alive and hold the run's lock.
    return [*command, *(["--wait"] if rank == 0 else []), str(folder)]


def resume_arguments(folder: Path) -> list[str]:
    """Return the Python arguments that start or continue the run."""
    return ["-P", "-m", "tunesmith", "resume", str(folder)]


def end_with_parent(parent: int) -> None:
    """Make the kernel kill this process when its parent ends (on Linux only)."""
    if sys.platform != "linux":
        return
    signal_at_end_of_parent(signal.SIGKILL)
    if os.getppid() != parent:  # The parent has already ended.
        os._exit(128 + signal.SIGKILL)


def report(text: str) -> None:
    """Print a line to the log of the process."""
    print(f"tunesmith-ray: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

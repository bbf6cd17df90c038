"""Start the run in the process of a job, or continue it from the last checkpoint.

``python -m tunesmith_cloud.job RUN.toml RUN`` creates the run folder if necessary. Then it replaces
itself with ``tunesmith resume RUN`` (under torchrun for several processes). The first attempt
and every restart use the same command. Because the process replaces itself, a signal to the
container reaches the run, which finishes its step and saves a checkpoint.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tunesmith import api
from tunesmith.errors import TunesmithError
from tunesmith.plan import Plan
from tunesmith_cli.launch import create_run_once, print_error


def main(arguments: Sequence[str] | None = None) -> int:
    """Create the run if necessary, and continue it. Return an exit code only on failure."""
    parser = argparse.ArgumentParser("tunesmith_cloud.job")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], dest="sets")
    parser.add_argument("run_file", type=Path)
    parser.add_argument("folder", type=Path)
    parsed = parser.parse_args(arguments)
    try:
        create_run(parsed.run_file, parsed.folder, parsed.sets)
    except TunesmithError as error:
        return print_error(error, partial(print, file=sys.stderr))
    command = build_command(parsed.folder, parsed.processes)
    # Do not import modules from the job's working directory, which may contain a json.py.
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    return os.execve(command[0], command, environment)  # noqa: S606 - no shell is wanted


def create_run(run_file: Path, folder: Path, sets: Sequence[str] = ()) -> None:
    """Create the run folder, unless an earlier start created it."""

    def make_plan() -> Plan:
        plan, _ = api.load_plan(run_file, sets=tuple(sets))
        api.require_runnable(plan)
        return plan

    create_run_once(folder, make_plan)


def build_command(folder: Path, processes: int) -> list[str]:
    """Return the command that continues the run."""
    resume = ["-m", "tunesmith", "resume", str(folder)]
    if processes <= 1:
        return [sys.executable, *resume]
    return [
        sys.executable, "-m", "torch.distributed.run", "--standalone",
        "--nproc-per-node", str(processes), *resume,
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())

"""Run a local trial in its own process: ``python -m tunesmith_optuna.work RUN``.

The process starts or continues the run. If a process of an earlier search still holds the run's
lock, this process waits until that one ends, and does nothing if the run is finished by then.
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

from tunesmith import api
from tunesmith.errors import TunesmithError
from tunesmith_cli.launch import print_error, wait_for_lock


def main(folder: Path) -> int:
    """Wait for the run's lock, then continue an unfinished run, and return the exit code."""
    try:
        wait_for_lock(folder, _report, seconds=math.inf)
        if api.read_report(folder).status == "ok":
            return 0
    except TunesmithError as error:
        return print_error(error, _report)
    # exec keeps the process id, so that signals reach the run.
    command = [sys.executable, "-P", "-m", "tunesmith", "resume", str(folder), "--quiet"]
    return os.execv(command[0], command)  # noqa: S606 - no shell is wanted


def _report(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

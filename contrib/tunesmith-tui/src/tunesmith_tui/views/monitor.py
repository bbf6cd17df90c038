"""The state of a run's monitor, where the distribution tunesmith-monitor is installed."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

TIMEOUT_SECONDS = 120


def describe_monitor(run: Path) -> str:
    """Return what is missing for a report of the run's monitor, or how to get one."""
    if not entry_points(group="tunesmith", name="monitor"):
        return "tunesmith-monitor is not installed. It watches the traffic of a model in service."
    if not run.with_name(f"{run.name}.monitor").is_dir():
        return "This run has no monitor. Start one: tunesmith monitor RUN --traffic FILE"
    return ""


def read_monitor(run: Path) -> str:
    """Return the report of ``tunesmith monitor RUN``, which reads no new traffic.

    Raises:
        OSError: the command could not start, or took too long.
    """
    command = [sys.executable, "-P", "-m", "tunesmith", "monitor", str(run)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False,
            stdin=subprocess.DEVNULL, errors="replace",
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise OSError(f"tunesmith monitor: no report after {TIMEOUT_SECONDS} s") from None
    return done.stdout or done.stderr

"""The status of a run, also while it is running."""

from __future__ import annotations

from pathlib import Path

from tunesmith.execution.report import Report
from tunesmith.storage import LockHolder

__all__ = ["find_status", "is_running"]


def find_status(folder: Path, report: Report) -> str:
    """Return ok, failed or stopped; running or unfinished for a run that has not ended."""
    if report.finished is None and is_running(folder):
        return "running"
    return report.status


def is_running(folder: Path) -> bool:
    """Return True if the process that locked the run folder may be alive."""
    holder = LockHolder.read(folder)
    return holder is not None and holder.may_be_alive()

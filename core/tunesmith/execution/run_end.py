"""The last event of a run, and the error that it tells of."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from tunesmith.errors import PluginError, RunStopped, TunesmithError
from tunesmith.events import JSON, RunFinished
from tunesmith.machine import explain_machine_error


def as_reported(error: BaseException) -> BaseException:
    """Return the error that a run ends with: an exit that some code asked for is a failure too."""
    if isinstance(error, SystemExit):
        return PluginError(f"the run was left by sys.exit({error.code!r})")
    return explain_machine_error(error) or error


def build_run_finished(error: BaseException | None, verdict: JSON, seconds: float) -> RunFinished:
    """Build the event that ends a run, with an error or without."""
    event = RunFinished(status="ok", exit_code=0, finished=now(), seconds=seconds, verdict=verdict)
    if error is None:
        return event
    event = replace(event, status="stopped" if isinstance(error, RunStopped) else "failed")
    if isinstance(error, TunesmithError):
        return replace(event, exit_code=error.exit_code, error=error.message, hint=error.hint or "")
    return replace(event, exit_code=1, error=repr(error))


def now() -> str:
    """Return the time in UTC as ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")

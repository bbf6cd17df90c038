"""The error that a run ends with, and its exit code in the last event."""

from __future__ import annotations

import errno

import pytest

from tunesmith.errors import DataError, RunStopped
from tunesmith.execution.run_end import as_reported, build_run_finished


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (None, "ok", 0),
        (DataError("rows", "is empty"), "failed", 3),
        (RunStopped("stopped by SIGINT", exit_code=130), "stopped", 130),
        (SystemExit(0), "failed", 8),
        (MemoryError(), "failed", 4),
        (OSError(errno.ENOSPC, "No space left on device", "/x"), "failed", 4),
        (KeyError("a bug"), "failed", 1),
    ],
    ids=repr,
)
def test_the_last_event_has_the_code_of_the_error(
    error: BaseException | None, status: str, code: int
) -> None:
    event = build_run_finished(error and as_reported(error), {}, 1.0)
    assert (event.status, event.exit_code) == (status, code)

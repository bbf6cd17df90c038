"""The last event of a run: its exit code, its error, and whether it would fail again."""

from __future__ import annotations

import errno

import pytest

from tunesmith.errors import DataError, RunStopped, TrainingError
from tunesmith.execution.run_events import build_run_finished, to_reported_error


@pytest.mark.parametrize(
    ("error", "status", "exit_code", "will_repeat"),
    [
        (None, "ok", 0, None),
        (RunStopped("stopped by Ctrl-C", exit_code=130), "stopped", 130, False),
        (TrainingError("the loss is not finite", hint="lower the rate"), "failed", 5, True),
        (DataError("rows:1", "is empty"), "failed", 3, False),
        (ValueError("x"), "failed", 1, None),
    ],
    ids=str,
)
def test_the_end_of_a_run(
    error: Exception | None, status: str, exit_code: int, will_repeat: bool | None
) -> None:
    event = build_run_finished(error, {"word": "yes"}, 2.0)
    assert (event.status, event.exit_code, event.will_repeat) == (status, exit_code, will_repeat)
    assert event.verdict == {"word": "yes"} and event.seconds == 2.0
    assert (str(error or "") in event.error) and event.hint == (getattr(error, "hint", None) or "")


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (None, "ok", 0),
        (DataError("rows", "is empty"), "failed", 3),
        (RunStopped("stopped by Ctrl-C", exit_code=130), "stopped", 130),
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
    event = build_run_finished(error and to_reported_error(error), {}, 1.0)
    assert (event.status, event.exit_code) == (status, code)

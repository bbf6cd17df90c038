"""The status of a run, also while it is running."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

from tunesmith.execution.report import build_report
from tunesmith.storage import LockHolder, lock
from tunesmith.testing import sample_run
from tunesmith_evidence.report.ending import find_status, is_running


def test_a_locked_run_is_running_until_it_ends(tmp_path: Path) -> None:
    begun, ended = build_report([*sample_run()][:-1]), build_report(sample_run())
    assert find_status(tmp_path, begun) == "unfinished"
    with lock(tmp_path):
        assert find_status(tmp_path, begun) == "running"
        assert find_status(tmp_path, ended) == "ok"
    assert find_status(tmp_path, begun) == "unfinished"


def test_a_killed_process_does_not_run(tmp_path: Path) -> None:
    holder = replace(LockHolder.current(), pid=2**22 + 1)
    (tmp_path / "lease").write_text(json.dumps(asdict(holder)))
    assert not is_running(tmp_path)
    (tmp_path / "lease").write_text("damaged")
    assert not is_running(tmp_path)

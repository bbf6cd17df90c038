"""``tunesmith runs --unlock``: a run is freed from a machine that is silent, and from no other."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from tunesmith.storage import LockHolder, RunFolder, lock, run_lock


def test_the_lock_of_a_silent_machine_is_removed(
    tunesmith: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_lock, "HEARTBEAT_TIMEOUT_SECONDS", 0.3)
    run = RunFolder.create(tmp_path, "x").path
    assert tunesmith("runs", "--unlock", run).stdout == f"{run}: the run was not locked\n"
    holder = replace(LockHolder.current(), host="node1", process="another boot 1")
    (run / "lease").write_text(json.dumps(asdict(holder)))
    done = tunesmith("runs", "--unlock", run)
    assert done.exit_code == 0
    assert done.stdout == f"{run}: unlocked the run, which was locked by {holder}\n"
    assert "waiting up to 0.3 s to see if" in done.stderr
    assert not (run / "lease").exists()
    (run / "lease").touch()
    assert "locked by an unknown process" in tunesmith("runs", "--unlock", run).stdout


def test_a_living_process_keeps_its_run(tunesmith: Callable[..., Any], tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, "x").path
    with lock(run):
        done = tunesmith("runs", "--unlock", run)
        assert done.exit_code == 2
        assert "run is in use by pid" in done.stderr
        assert (run / "lease").exists()
    assert tunesmith("runs", "--unlock", tmp_path).exit_code == 2

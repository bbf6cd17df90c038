"""The process of a job: begun once, stopped by TERM, continued, finished with the same weights."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tunesmith import api
from tunesmith_cloud import job


def start(project: Path, folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", "-m", "tunesmith_cloud.job", "run.toml", str(folder)]
    return subprocess.Popen(command, cwd=project)


def hash_weights(folder: Path) -> str:
    path = folder / "adapter" / "adapter_model.safetensors"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_job_that_is_taken_away_ends_with_the_same_weights(project: Path, tmp_path: Path) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "run"
    assert start(project, whole).wait() == 0
    first = start(project, folder)
    deadline = time.monotonic() + 300
    while not (folder / "events.jsonl").is_file() or len(api.read_report(folder).steps) < 20:
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(first.pid, signal.SIGTERM)
    assert first.wait() == 143
    assert start(project, folder).wait() == 0
    report = api.read_report(folder)
    assert report.status == "ok"
    assert hash_weights(folder) == hash_weights(whole)


def test_a_start_that_was_ended_before_the_run_file_was_there(
    project: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "lock").touch()
    job.create_run(project / "run.toml", folder, ["run.seed=5"])
    written = (folder / "run.toml").read_text()
    job.create_run(project / "run.toml", folder, ["run.seed=6"])
    assert (folder / "run.toml").read_text() == written
    assert api.load_run(folder)[1].run.seed == 5


def test_a_run_file_with_mistakes_ends_the_job_for_good(tmp_path: Path) -> None:
    """Below 128, so that no launcher starts it again."""
    (tmp_path / "run.toml").write_text("[modle]\n")
    assert job.main([str(tmp_path / "run.toml"), str(tmp_path / "run")]) == 2
    assert not (tmp_path / "run").exists()


def test_several_processes_are_started_by_torchrun(tmp_path: Path) -> None:
    assert "torch.distributed.run" in job.build_command(tmp_path, 2)
    assert "torch.distributed.run" not in job.build_command(tmp_path, 1)

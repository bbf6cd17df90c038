"""Searches as processes: real runs, killed and continued, and the best run file run at the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tunesmith import api
from tunesmith.storage import lock
from tunesmith.text import format_duration
from tunesmith_optuna import work
from tunesmith_optuna.launchers import LOG_FILE, LocalLauncher, list_gpus


def tunesmith(run_file: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command in the folder of the run file."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "tunesmith", *map(str, arguments)],
        cwd=run_file.parent, capture_output=True, text=True, check=False,
        env={**os.environ, "NO_COLOR": "1"},
    )  # fmt: skip


def succeed(run_file: Path, *arguments: str | Path) -> str:
    done = tunesmith(run_file, *arguments)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def wait_until(is_true: Callable[[], object], what: str, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline, f"not within {format_duration(seconds)}: {what}"
        time.sleep(0.05)


def test_a_search_finds_options_that_a_run_then_verifies(run_file: Path, tmp_path: Path) -> None:
    study = tmp_path / "study"
    out = succeed(run_file, "tune", "run.toml", "--trials", "3", "--parallel", "2", "--out", study)
    assert "Best: trial " in out and "Test rows were not used." in out
    found = json.loads(succeed(run_file, "tune", study, "--json"))
    values = {trial["number"]: trial["value"] for trial in found["trials"]}
    assert len(values) == 3 and found["part"] == "validation"
    assert values[found["best"]] == min(values.values())
    assert {trial["rows"] for trial in found["trials"]} == {20}
    # An ordinary run folder, without a model's answer to a test row.
    report = json.loads(succeed(run_file, "report", study / "trial-000", "--json"))
    assert report["run"]["status"] == "ok"
    assert report["data"]["test"] == report["data"]["validation"] == 20
    # The run file's gate asks for the impossible: code 6, after the test rows were scored.
    done = tunesmith(run_file, "run", study / "best.toml", "--out", "best", "--json", "--quiet")
    assert done.returncode == 6, done.stderr
    best = json.loads(done.stdout)
    assert best["data"]["test"] == 26 and best["training"]["rows"] == 84


def test_a_killed_search_continues_with_its_unfinished_trial(
    run_file: Path, tmp_path: Path
) -> None:
    """Also if it is killed at once, silently to its trials."""
    study, slow = tmp_path / "study", tmp_path / "slow.py"
    slow.write_text(SLOW, encoding="utf-8")
    arguments = ["--plugin", str(slow), "tune", "run.toml", "--trials", "2", "--out", str(study)]
    search = subprocess.Popen(
        [sys.executable, "-P", "-m", "tunesmith", *arguments], cwd=run_file.parent,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    events = study / "trial-000" / "events.jsonl"
    wait_until(lambda: events.is_file() and "step-finished" in events.read_text(), "a step")
    search.send_signal(signal.SIGKILL)
    search.wait()
    wait_until(lambda: '"run-finished"' in events.read_text(), "the end of the trial")
    assert "stopped by SIGUSR1" in events.read_text()
    slow.write_text(SLOW.replace("sleep(0.5)", "sleep(0)"), encoding="utf-8")
    found = json.loads(succeed(run_file, "tune", study, "--json"))
    assert [trial["state"] for trial in found["trials"]] == ["complete", "complete"]
    starts = [json.loads(x) for x in events.read_text().splitlines() if '"training-started"' in x]
    assert len(starts) == 2 and starts[1]["first_step"] > 0


SLOW = """
import time
from tunesmith.hookspecs import hookimpl
from tunesmith.offers import ReporterOffer
from tunesmith.options import Options

class Slow:
    def __enter__(self): return self
    def __exit__(self, *error): pass
    def report(self, event):
        if event.kind == "step-finished": time.sleep(0.5)

@hookimpl
def tunesmith_reporters():
    return [ReporterOffer(name="slow", summary="waits", config=Options, always=True,
                          build=lambda options, folder: Slow())]
"""


def test_ctrl_c_stops_the_trial_and_names_the_command_that_continues(
    run_file: Path, tmp_path: Path
) -> None:
    study, slow = tmp_path / "study", tmp_path / "slow.py"
    slow.write_text(SLOW, encoding="utf-8")
    arguments = ["--plugin", str(slow), "tune", "run.toml", "--trials", "2", "--out", str(study)]
    search = subprocess.Popen(
        [sys.executable, "-P", "-m", "tunesmith", *arguments], cwd=run_file.parent,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    events = study / "trial-000" / "events.jsonl"
    wait_until(lambda: events.is_file() and "step-finished" in events.read_text(), "a step")
    search.send_signal(signal.SIGINT)
    _, printed = search.communicate(timeout=120)
    assert search.returncode == 130 and f"continue with: tunesmith tune {study.name}" in printed
    assert "stopped by SIGTERM" in events.read_text()
    assert not (study / "best.toml").exists()


def test_a_second_search_in_one_folder_is_refused(run_file: Path, tmp_path: Path) -> None:
    study = tmp_path / "study"
    succeed(run_file, "tune", "run.toml", "--trials", "1", "--out", study, "--quiet")
    with lock(study / "optuna"):
        done = tunesmith(run_file, "tune", study, "--trials", "2")
    assert done.returncode == 2 and "in use by pid" in done.stderr


def test_the_process_of_a_finished_run_does_nothing(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    event: dict[str, Any] = {"event": "run-finished", "status": "ok", "exit_code": 0}
    event |= {"finished": "2026-01-01T00:00:00+00:00", "seconds": 1.0}
    (tmp_path / "events.jsonl").write_text(json.dumps(event) + "\n")
    assert api.read_report(tmp_path).status == "ok" and work.main(tmp_path) == 0


def test_the_end_of_a_process_is_described(tmp_path: Path) -> None:
    launcher = LocalLauncher()
    (tmp_path / "run.toml").touch()
    launcher.start(tmp_path)
    wait_until(lambda: not launcher.is_active(tmp_path), "the end of the process")
    reason = launcher.describe_end(tmp_path)
    assert "model.base: is required, but missing" in reason and "\n" not in reason
    assert "model.base: is required, but missing" in (tmp_path / LOG_FILE).read_text()
    with lock(tmp_path):  # its process waits
        launcher.start(tmp_path)
        assert launcher.is_active(tmp_path)
        launcher._processes[tmp_path].kill()
        wait_until(lambda: not launcher.is_active(tmp_path), "the end of the process")
    assert "was killed, perhaps because memory" in launcher.describe_end(tmp_path)


def test_trials_at_the_same_time_share_cores_and_have_a_gpu_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    monkeypatch.delenv("OMP_NUM_THREADS")
    launcher = LocalLauncher(parallel=3)
    assert list_gpus() == ["2", "5"]
    environments = [launcher._environment(slot) for slot in range(3)]
    assert [e["CUDA_VISIBLE_DEVICES"] for e in environments] == ["2", "5", "2"]
    cores = len(os.sched_getaffinity(0))
    assert {e["OMP_NUM_THREADS"] for e in environments} == {str(max(1, cores // 3))}
    assert "OMP_NUM_THREADS" not in LocalLauncher(parallel=1)._environment(0)

"""The process of a job: signals, the queue, and the lock of the run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest
from fake_slurm import FakeSlurm

from tunesmith.errors import EnvironmentProblem
from tunesmith.events import RunFinished, RunStarted
from tunesmith.storage import EventLog
from tunesmith.testing import sample_event
from tunesmith_slurm import job
from tunesmith_slurm.job import Outcome, Work

CHILD = """
import os, signal, sys, time
for number in (signal.SIGUSR1, signal.SIGTERM):
    ignored = signal.getsignal(number) == signal.SIG_IGN
    print("ignored" if ignored else "not ignored", signal.Signals(number).name)
for number in (signal.SIGUSR1, signal.SIGTERM):
    signal.signal(number, lambda number, frame: sys.exit(128 + number))
print(os.environ["PYTHONSAFEPATH"])
open(sys.argv[1], "w").close()
time.sleep(float(sys.argv[2]))
"""


def run_child(folder: Path, *, seconds: float, number: int | None = None) -> Outcome:
    """Run a child, and send a signal to this process when it is ready."""
    ready = folder / "ready"

    def send() -> None:
        while not ready.exists():
            time.sleep(0.01)
        if number is not None:
            os.kill(os.getpid(), number)

    thread = threading.Thread(target=send)
    thread.start()
    outcome = job.run_child([sys.executable, "-c", CHILD, str(ready), str(seconds)])
    thread.join()
    return outcome


def test_the_signal_before_the_time_limit_is_passed_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGUSR1), signal.getsignal(signal.SIGTERM)
    outcome = run_child(tmp_path, seconds=60, number=signal.SIGUSR1)
    assert outcome == Outcome(128 + signal.SIGUSR1, was_asked=True) and outcome.is_interrupted
    printed = capfd.readouterr()
    assert printed.out.split("\n")[:3] == ["not ignored SIGUSR1", "ignored SIGTERM", "1"]
    assert "time limit is near" in printed.err
    assert (signal.getsignal(signal.SIGUSR1), signal.getsignal(signal.SIGTERM)) == before


def test_term_is_not_passed_on(tmp_path: Path) -> None:
    """Slurm sends it to every process itself."""
    outcome = run_child(tmp_path, seconds=0.5, number=signal.SIGTERM)
    assert outcome == Outcome(0, was_asked=True) and not outcome.is_interrupted


@pytest.mark.parametrize(
    ("code", "expected"),
    [("sys.exit(75)", 75), ("os.kill(os.getpid(), 9)", 137), ("os.kill(os.getpid(), 15)", 143)],
)
def test_a_run_that_ends_by_itself_is_not_interrupted(code: str, expected: int) -> None:
    source = f"import os, signal, sys\nsignal.signal(15, signal.SIG_DFL)\n{code}"
    outcome = job.run_child([sys.executable, "-c", source])
    assert outcome == Outcome(expected, was_asked=False) and not outcome.is_interrupted


@pytest.mark.parametrize(
    ("code", "interrupted"),
    [(0, False), (5, False), (75, False), (137, False), (138, True), (143, True)],
)
def test_of_the_exit_codes_those_of_stop_signals_mean_go_on(code: int, interrupted: bool) -> None:
    assert Outcome(code, was_asked=True).is_interrupted == interrupted


# --------------------------------------------------------------------------- the queue

WORK = Work(Path("run"), max_requeues=2)


@pytest.fixture
def in_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")


@pytest.mark.usefixtures("in_job")
def test_a_running_job_is_requeued(slurm: FakeSlurm) -> None:
    slurm.answer("squeue", "RUNNING|None|1:00|9:00|n1\n")
    job.requeue(WORK, restarts=1)
    assert slurm.calls("scontrol") == ["scontrol requeue 7"]


@pytest.mark.usefixtures("in_job")
@pytest.mark.parametrize("state", ["COMPLETING", "CANCELLED", "PENDING", "TIMEOUT"])
def test_a_job_that_slurm_has_ended_is_not_requeued(slurm: FakeSlurm, state: str) -> None:
    slurm.answer("squeue", f"{state}|None|1:00|9:00|n1\n")
    job.requeue(WORK, restarts=0)
    assert not slurm.calls("scontrol")


@pytest.mark.usefixtures("in_job")
def test_a_job_is_requeued_so_often_and_no_more(
    slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    slurm.answer("squeue", "RUNNING|None|1:00|9:00|n1\n")
    job.requeue(WORK, restarts=2)
    assert not slurm.calls()
    assert "max_requeues is 2" in capsys.readouterr().err


@pytest.mark.usefixtures("in_job")
def test_a_cluster_that_does_not_requeue_is_reported(slurm: FakeSlurm) -> None:
    slurm.answer("squeue", "RUNNING|None|1:00|9:00|n1\n")
    slurm.answer("scontrol", "", stderr="Requested operation is presently disabled\n", code=1)
    with pytest.raises(EnvironmentProblem, match="presently disabled") as caught:
        job.requeue(WORK, restarts=0)
    assert caught.value.hint and "tunesmith slurm submit" in caught.value.hint


def test_without_a_job_nothing_is_requeued(slurm: FakeSlurm) -> None:
    job.requeue(WORK, restarts=0)
    assert not slurm.calls()


# --------------------------------------------------------------------------- the run


def test_one_process_is_started_directly_and_several_by_torchrun() -> None:
    resume = ["-m", "tunesmith", "resume", "run"]
    assert WORK.command() == [sys.executable, *resume]
    command = Work(Path("run"), processes=4, shutdown_seconds=300).command()
    assert command[1:3] == ["-m", "torch.distributed.run"] and command[-4:] == resume
    pairs = list(pairwise(command))
    assert ("--nproc-per-node", "4") in pairs
    assert ("--signals-to-handle", "SIGUSR1") in pairs
    assert ("--shutdown-timeout", "300") in pairs


def test_the_exit_code_behind_torchrun_is_that_of_the_newest_start(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    stopped = sample_event(RunFinished, status="stopped", exit_code=143)
    expected = [1, 143, 1]  # nothing yet, stopped, and started again: not ended
    with EventLog(tmp_path / "events.jsonl") as log:
        for code, event in zip(expected, [None, stopped, sample_event(RunStarted)], strict=True):
            if event is not None:
                log.append({"time": 1.0, **event.to_json()})
            assert job.exit_code_of_run(tmp_path, 1) == code


def test_a_folder_that_is_gone_is_an_error_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tunesmith_slurm.job", str(tmp_path / "gone")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "no such folder" in done.stderr

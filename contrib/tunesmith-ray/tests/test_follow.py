"""Progress and end of a run on the cluster, as the terminal shows them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tunesmith.storage import EventLog
from tunesmith.testing import sample_run
from tunesmith_ray import follow
from tunesmith_ray.follow import Follower, show_state, wait_for_job
from tunesmith_ray.job_file import Job, find_job, is_cancel_requested
from tunesmith_ray.launcher import reread_job

JOB = Job("a-1", None, "2026-01-01T00:00:00+00:00")


def test_a_follower_prints_whole_lines_from_the_end_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rank-0.log"
    path.write_text("before\n")
    follower = Follower.from_end(path)
    for text in ("one\ntw", "o\n", "\x1b[2Jthree\n", "rest"):
        with path.open("a") as stream:
            stream.write(text)
        follower.print_new()
    printed = capsys.readouterr().err
    assert printed.splitlines()[:2] == ["one", "two"] and "before" not in printed
    assert "\x1b" not in printed and "rest" not in printed


def test_a_log_that_does_not_exist_yet_is_shown_from_its_beginning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    follower = Follower.from_end(tmp_path / "log")
    follower.print_new()
    (tmp_path / "log").write_text("one\n")
    follower.print_new()
    assert capsys.readouterr().err == "one\n"


def wait(folder: Path, *steps: Callable[[], None], is_alive: bool = True) -> tuple[Job, bool]:
    """Wait for the job while these steps happen; return it, and whether it was cancelled."""
    left = list(steps)

    def sleep(seconds: float) -> None:
        left.pop(0)()

    job = wait_for_job(folder, is_alive=lambda: is_alive, sleep=sleep)
    return job, is_cancel_requested(folder, JOB.name)


def write_finished_run(folder: Path) -> None:
    (folder / "lock").touch()
    with EventLog(folder / "events.jsonl") as log:
        for event in sample_run():
            log.append(event.to_json())


def test_a_job_that_ended_meanwhile_is_not_lost(tmp_path: Path) -> None:
    """The file was read before its supervisor wrote the end, and left."""
    replace(JOB, state="finished", exit_code=0).write(tmp_path)
    assert reread_job(tmp_path, JOB, is_lost=True).state == "finished"
    JOB.write(tmp_path)
    lost = reread_job(tmp_path, JOB, is_lost=True)
    assert (lost.state, lost.reason) == ("failed", "the supervisor was lost")
    assert reread_job(tmp_path, JOB, is_lost=False).state == JOB.state


def test_a_run_that_finished_is_not_failed_without_its_supervisor(tmp_path: Path) -> None:
    JOB.write(tmp_path)
    write_finished_run(tmp_path)
    found = reread_job(tmp_path, JOB, is_lost=True)
    assert (found.state, found.exit_code, found.reason) == ("finished", 0, "")


def test_it_waits_until_the_job_has_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    JOB.write(tmp_path)
    states = [
        replace(JOB, state="waiting", starts=1),
        replace(JOB, state="running", starts=1, hosts=("n1", "n1", "n2")),
        replace(JOB, state="waiting", starts=2, reason="rank 0: ended by SIGKILL"),
        replace(JOB, state="finished", starts=2, exit_code=0),
    ]
    job, cancelled = wait(tmp_path, *(lambda job=job: job.write(tmp_path) for job in states))
    assert job == find_job(tmp_path) and job.exit_code == 0 and not cancelled
    assert capsys.readouterr().err.splitlines() == [
        "waiting for machines", "running on n1, n2", "rank 0: ended by SIGKILL: start 2",
    ]  # fmt: skip


def interrupt() -> None:
    raise KeyboardInterrupt


def test_ctrl_c_cancels_once_and_returns_the_second_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    JOB.write(tmp_path)
    stopped = replace(JOB, state="stopped", exit_code=143)
    job, cancelled = wait(tmp_path, interrupt, lambda: stopped.write(tmp_path))
    assert job.exit_code == 143 and cancelled
    JOB.write(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        wait(tmp_path, interrupt, interrupt)
    assert is_cancel_requested(tmp_path, JOB.name)
    assert "Press Ctrl-C again to return now; the run still stops" in capsys.readouterr().err


def test_a_supervisor_that_is_lost_ends_the_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "ALIVE_SECONDS", -1.0)
    JOB.write(tmp_path)
    job, _ = wait(tmp_path, is_alive=False)
    assert (job.state, job.exit_code, job.reason) == ("failed", 1, "the supervisor was lost")


def test_a_submitted_job_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    show_state(JOB)
    assert not capsys.readouterr().err

"""The supervisor without a cluster: what it makes of exit codes, and what it writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tunesmith.events import RunFinished
from tunesmith.storage import EventLog
from tunesmith.testing import sample_event
from tunesmith_ray.job_file import Job, find_job, is_cancel_requested, request_cancel
from tunesmith_ray.supervisor import ExitCodes, Outcome, judge_exit_codes, name_signal, supervise
from tunesmith_ray.work import Work

JOB = Job("a-1", None, "2026-01-01T00:00:00+00:00")


@pytest.mark.parametrize(
    ("codes", "is_cancelled", "verdict", "exit_code", "rank"),
    [
        ([0, 0], False, "finished", 0, None),
        ([0, None], False, "finished", 0, None),  # lost after the end of the run
        ([0, 1], True, "finished", 0, None),
        ([1, None], False, "lost", 137, 1),  # rank 0 has noticed
        ([None, None], False, "lost", 137, 0),
        ([1, 137], False, "lost", 137, 1),
        ([139, 1], False, "lost", 139, 0),
        ([5, 0], False, "failed", 5, 0),
        ([143, 3], False, "failed", 3, 1),  # rank 0 was asked to stop, because rank 1 has failed
        ([143, 0], False, "stopped", 143, None),
        ([75, 0], False, "stopped", 75, None),
        ([143, 0], True, "stopped", 143, None),
        ([None, None], True, "stopped", 137, None),
        ([], True, "stopped", 143, None),
    ],
)
def test_a_start_is_judged_by_its_exit_codes(
    codes: ExitCodes, is_cancelled: bool, verdict: str, exit_code: int, rank: int | None
) -> None:
    outcome = judge_exit_codes(codes, is_cancelled)
    assert (outcome.verdict, outcome.exit_code, outcome.failed_rank) == (verdict, exit_code, rank)


def test_a_lost_process_is_described() -> None:
    assert judge_exit_codes([137, 1], False).reason == "rank 0: killed by SIGKILL"
    assert judge_exit_codes([1, None], False).reason == "rank 1: its worker was lost"
    assert name_signal(200) == "signal 200"


class Starts:
    """A cluster on which each start ends with the next exit codes."""

    def __init__(self, folder: Path, *codes: ExitCodes | Exception) -> None:
        self.folder, self.codes = folder, list(codes)
        self.states: list[tuple[str, int]] = []

    def __call__(self, work: Work, has_begun: Callable[[Sequence[str]], None]) -> ExitCodes:
        self.note()
        has_begun(["n1", "n2"])
        self.note()
        found = self.codes.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    def note(self) -> None:
        job = find_job(self.folder)
        assert job is not None
        self.states.append((job.state, job.starts))


def run(folder: Path, *codes: ExitCodes | Exception, failures: int = 3) -> tuple[Job, Starts]:
    starts = Starts(folder, *codes)
    JOB.write(folder)
    job = supervise(Work(str(folder), max_failures=failures), JOB.name, starts, lambda: False)
    assert job is not None and find_job(folder) == job
    return job, starts


def test_a_lost_process_is_started_again_and_an_error_is_not(tmp_path: Path) -> None:
    job, starts = run(tmp_path, [1, None], [0, 0])
    assert (job.state, job.starts, job.exit_code, list(job.hosts)) == (
        "finished", 2, 0, ["n1", "n2"]
    )  # fmt: skip
    assert starts.states == [("waiting", 1), ("running", 1), ("waiting", 2), ("running", 2)]
    job, starts = run(tmp_path, [5, 0], [0, 0])
    assert (job.state, job.starts, job.exit_code) == ("failed", 1, 5)
    assert len(starts.codes) == 1


def test_it_is_started_again_so_often_and_no_more(tmp_path: Path) -> None:
    job, _ = run(tmp_path, [137], [137], [137], failures=1)
    assert (job.state, job.starts, job.exit_code, job.failed_rank) == ("failed", 2, 137, 0)
    assert job.reason == "rank 0: killed by SIGKILL; started 2 times"
    assert run(tmp_path, [137], [0], failures=0)[0].state == "failed"


def test_a_run_that_ends_just_when_it_is_stopped_is_finished(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    with EventLog(tmp_path / "events.jsonl") as log:
        finished = sample_event(RunFinished, status="ok", exit_code=0)
        log.append({"time": 1.0, **finished.to_json()})
    for codes in ([143, 0], [None, None]):
        job, _ = run(tmp_path, codes)
        assert (job.state, job.exit_code, job.starts) == ("finished", 0, 1)


def test_an_error_of_ray_ends_the_job(tmp_path: Path) -> None:
    job, _ = run(tmp_path, ValueError("no such placement"))
    assert (job.state, job.exit_code) == ("failed", 1)
    assert job.reason == "ValueError: no such placement"


def test_a_supervisor_that_is_created_again_counts_the_start_before(tmp_path: Path) -> None:
    """And does nothing for a job that has ended."""
    Job("a-1", None, "", state="running", starts=2, hosts=("n1",)).write(tmp_path)
    job = supervise(Work(str(tmp_path)), "a-1", Starts(tmp_path, [0]), lambda: False)
    assert job is not None and (job.state, job.starts) == ("finished", 3)
    again = Starts(tmp_path, [0])
    assert supervise(Work(str(tmp_path)), "a-1", again, lambda: False) == job
    assert len(again.codes) == 1


def test_a_job_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="the job file is missing"):
        supervise(Work(str(tmp_path)), "a-1", Starts(tmp_path), lambda: False)


def test_a_supervisor_that_is_created_again_remembers_that_it_was_cancelled(
    tmp_path: Path,
) -> None:
    """Of an earlier job that was cancelled it knows nothing."""
    Job("a-1", None, "", state="running", starts=2).write(tmp_path)
    request_cancel(tmp_path, "a-0")
    assert not is_cancel_requested(tmp_path, "a-1")
    request_cancel(tmp_path, "a-1")
    starts = Starts(tmp_path, [0])
    job = supervise(
        Work(str(tmp_path)), "a-1", starts, lambda: is_cancel_requested(tmp_path, "a-1")
    )
    assert job is not None and (job.state, job.exit_code, job.starts) == ("stopped", 143, 2)
    assert find_job(tmp_path) == job and len(starts.codes) == 1


@pytest.mark.parametrize("moment", ["before", "has begun", "ended"])
def test_a_job_of_another_cluster_is_not_overwritten(tmp_path: Path, moment: str) -> None:
    Job("a-1", None, "").write(tmp_path)
    other = Job("a-2", "node9:6379", "later", state="running", starts=1, hosts=["n9"])

    def start(work: Work, has_begun: Callable[[Sequence[str]], None]) -> ExitCodes:
        if moment == "has begun":
            other.write(tmp_path)
        has_begun(["n1"])
        other.write(tmp_path)
        return [0]

    if moment == "before":
        other.write(tmp_path)
    assert supervise(Work(str(tmp_path)), "a-1", start, lambda: False) is None
    assert find_job(tmp_path) == other


def test_an_outcome_has_no_rank_unless_one_has_failed() -> None:
    assert Outcome("finished", 0).failed_rank is None

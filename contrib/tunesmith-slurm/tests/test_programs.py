"""Calls of Slurm's programs: their answers, their errors, their absence."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_slurm import FakeSlurm

from tunesmith.errors import EnvironmentProblem
from tunesmith_slurm import programs
from tunesmith_slurm.programs import JobState


@pytest.mark.parametrize("answer", ["4711\n", "4711;cluster\n"])
def test_sbatch_answers_with_a_number(slurm: FakeSlurm, answer: str) -> None:
    slurm.answer("sbatch", answer)
    assert programs.submit_script(Path("/a b/job.sh")) == "4711"
    assert slurm.calls() == ["sbatch --parsable /a b/job.sh"]


def test_a_refused_job_is_an_error_in_the_words_of_slurm(slurm: FakeSlurm) -> None:
    slurm.answer("sbatch", "", stderr="sbatch: error: Invalid account\n", code=1)
    with pytest.raises(EnvironmentProblem, match=r"^sbatch: error: Invalid account$"):
        programs.submit_script(Path("job.sh"))


def test_a_missing_program_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentProblem, match="sbatch: command not found"):
        programs.submit_script(Path("job.sh"))


def test_the_queue_answers_first(slurm: FakeSlurm) -> None:
    slurm.answer("squeue", "PENDING|Priority|0:00|10:00|\n")
    state = programs.query_job("7")
    assert state == JobState("PENDING", "Priority", "0:00", "10:00", "") and state.is_active
    slurm.answer("squeue", "RUNNING|None|1:00|9:00|n1\n")
    assert programs.query_job("7") == JobState("RUNNING", "", "1:00", "9:00", "n1")
    slurm.answer("squeue", "COMPLETED|None|1:00|9:00|n1\n")
    assert not programs.query_job("7").is_active
    assert not slurm.calls("sacct")


def test_the_accounting_knows_older_jobs(slurm: FakeSlurm) -> None:
    slurm.answer("squeue", "", stderr="slurm_load_jobs error: Invalid job id specified\n", code=1)
    slurm.answer("sacct", "CANCELLED by 1000|00:10:00|n1\n")
    assert programs.query_job("7") == JobState("CANCELLED", elapsed="00:10:00", nodes="n1")
    slurm.answer("squeue", "")
    assert programs.query_job("7").state == "CANCELLED"
    slurm.answer("sacct", "", stderr="Slurm accounting storage is disabled\n", code=1)
    found = programs.query_job("7")
    assert found.state == "unknown" and not found.is_active
    assert "squeue no longer lists job 7, and accounting is not available" in found.reason
    assert "Slurm accounting storage is disabled" in found.reason
    slurm.answer("sacct", "")
    assert "and accounting (sacct) does not list it either" in programs.query_job("7").reason


def test_a_controller_that_is_down_is_no_finished_job(slurm: FakeSlurm) -> None:
    slurm.answer("squeue", "", stderr="Unable to contact slurm controller\n", code=1)
    with pytest.raises(EnvironmentProblem, match="Unable to contact"):
        programs.query_job("7")


def test_jobs_are_cancelled_and_requeued_by_number(slurm: FakeSlurm) -> None:
    programs.cancel_job("7")
    programs.requeue_job("7")
    assert slurm.calls() == ["scancel 7", "scontrol requeue 7"]

"""The commands of a launcher: its job, its log, and what follows."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from tunesmith.errors import UsageError
from tunesmith.options import RunOptions
from tunesmith.storage import EventLog, RunFolder
from tunesmith.testing import sample_run
from tunesmith_cli.common import CliState
from tunesmith_cli.launch import given_flags
from tunesmith_cli.launch_commands import JobCommands, JobStatus, submit_options

FAILED = JobStatus(False, {"state": "failed", "reason": ""}, {"is_active": False}, rank=2)


def find_log(folder: Path, job: str, rank: int) -> Path:
    return folder / f"{job}-{rank}.log"


LAUNCHER: JobCommands[str] = JobCommands(
    "there",
    lambda folder: "job" if (folder / "submitted").exists() else None,
    lambda folder, job: FAILED,
    lambda folder, job: f"{job} is cancelled",
    find_log,
    has_ranks=True,
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = RunFolder.create(tmp_path, "x").path
    (folder / "submitted").touch()
    return folder


def call(command: click.Command, *words: str) -> str:
    done = CliRunner().invoke(command, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_a_job_is_opened_with_its_run(run: Path) -> None:
    folder, job = LAUNCHER.open(run)
    assert (folder.path, job) == (run, "job")
    (run / "submitted").unlink()
    with pytest.raises(UsageError, match="no job was submitted") as caught:
        LAUNCHER.open(run)
    assert "tunesmith there submit" in str(caught.value.hint)


def test_status_names_the_command_that_is_next(run: Path) -> None:
    printed = call(LAUNCHER.status_command(), str(run))
    assert "state:      failed\nrun:        not begun\n" in printed and "reason" not in printed
    assert f"tunesmith there logs {run} --rank 2" in printed
    assert f"tunesmith there submit {run}" in printed
    with EventLog(run / "events.jsonl") as log:
        for event in sample_run():
            log.append({"time": 1.0, **event.to_json()})
    printed = call(LAUNCHER.status_command(), str(run))
    assert "step: " in printed and f"tunesmith report {run}" in printed
    content = json.loads(call(LAUNCHER.status_command(), str(run), "--json"))
    assert content["schema"] == "tunesmith.there-status/1" and content["run"] == "ok"
    assert content["step"] == content["steps"] and content["is_active"] is False


def test_the_log_of_a_process_is_printed_from_its_end(run: Path) -> None:
    command = LAUNCHER.logs_command()
    with pytest.raises(UsageError, match=r"job-1\.log: the job has not printed anything yet"):
        call(command, str(run), "--rank", "1")
    find_log(run, "job", 1).write_text("a\nb\n\x1b[2Jc\n")
    printed = call(command, str(run), "--rank", "1", "--lines", "2")
    assert "b\n" in printed and "a\n" not in printed and "\x1b" not in printed


def test_a_job_is_cancelled(run: Path) -> None:
    printed = call(LAUNCHER.cancel_command(), str(run))
    assert "job is cancelled" in printed and f"tunesmith there submit {run}" in printed


def test_commands_that_start_runs_have_the_same_options() -> None:
    @click.command()
    @submit_options(RunOptions, {"seed": int}, "run", dry_run="Print it.")
    def command(
        state: CliState, sets: tuple[str, ...], out: Path | None, dry_run: bool, as_json: bool
    ) -> None:
        assert isinstance(state, CliState) and dry_run and not as_json and out is None
        assert sets == ("a=1",)
        assert given_flags(click.get_current_context()) == {"seed": 3}

    call(command, "--set", "a=1", "--seed", "3", "--dry-run")
    assert "Overrides run.seed." in call(command, "--help")

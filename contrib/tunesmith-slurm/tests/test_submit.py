"""Commands without a cluster: what is written, submitted, shown and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fake_slurm import FakeSlurm

from tunesmith import api
from tunesmith_cli.app import app
from tunesmith_slurm import PLUGIN, submit
from tunesmith_slurm.job_file import find_job
from tunesmith_slurm.launcher import describe_time
from tunesmith_slurm.programs import JobState


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["slurm", *map(str, arguments)])


def succeed(*arguments: str | Path) -> str:
    result = call(*arguments)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def refuse(*arguments: str | Path) -> str:
    result = call(*arguments)
    assert result.exit_code not in (0, 1), result.output
    return result.stderr


def test_each_offer_loads_its_command() -> None:
    names = ["submit", "status", "logs", "cancel"]
    loaded = [offer.load() for offer in PLUGIN.tunesmith_commands()]
    assert [command.name for command in loaded] == names and loaded[0] is submit.command


@pytest.fixture
def run(slurm: FakeSlurm, project: Path, tmp_path: Path) -> Path:
    """The folder of a run that was submitted as job 7."""
    slurm.answer("sbatch", "7\n")
    slurm.answer("squeue", "RUNNING|None|1:00|9:00|n1\n")
    out = tmp_path / "run"
    succeed("submit", project / "run.toml", "--out", out, "--gpus", "a100:1", "--set", "run.seed=5")
    return out


def test_the_folder_is_a_run_that_has_not_begun(run: Path, slurm: FakeSlurm) -> None:
    """The job executes `tunesmith resume`, which begins the run."""
    assert slurm.calls() == [f"sbatch --parsable {run / 'slurm' / 'job.sh'}"]
    script = (run / "slurm" / "job.sh").read_text()
    assert "#SBATCH --gpus-per-node=a100:1\n#SBATCH --mem=1G\n#SBATCH --time=30\n" in script
    assert script.rstrip().endswith(f" {run}")
    job = find_job(run)
    assert job is not None and job.job == "7"
    folder, plan, _ = api.load_run(run)
    assert plan.run.seed == 5 and api.read_report(folder.path).started is None
    assert {path.name for path in run.iterdir()} == {"lock", "run.toml", "slurm"}


def test_a_dry_run_prints_the_script_and_does_nothing(
    slurm: FakeSlurm, project: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    before = sorted(project.rglob("*"))
    printed = succeed("submit", project / "run.toml", "--out", out, "--dry-run", "--mem", "2G")
    assert printed.startswith("#!/bin/bash\n") and "#SBATCH --mem=2G\n" in printed
    assert f"--output={out}/slurm/%j.log" in printed
    assert "runs/RUN/slurm/%j.log" in succeed("submit", project / "run.toml", "--dry-run")
    assert not out.exists() and not slurm.calls() and sorted(project.rglob("*")) == before


def test_a_run_without_the_planner_is_one_whose_job_does_not_check_its_memory(
    slurm: FakeSlurm, project: Path, tmp_path: Path
) -> None:
    slurm.answer("sbatch", "7\n")
    out = tmp_path / "run"
    succeed("submit", project / "run.toml", "--out", out, "--no-plugin", "estimate")
    assert api.load_run(out)[1].to_json()["plugins"]["disable"] == ["estimate"]


def test_a_request_below_the_prediction_is_warned_of(
    slurm: FakeSlurm, project: Path, tmp_path: Path
) -> None:
    slurm.answer("sbatch", "7\n")
    result = call("submit", project / "run.toml", "--out", tmp_path / "run", "--mem", "64M")
    assert result.exit_code == 0
    assert "warning: mem = 64M is below the prediction" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nodes", "2"], "slurm.nodes: must be 1"),
        (["--set", "slurm.partitoin=gpu"], "slurm.partitoin: unknown key"),
        (["--gpus", "2", "--set", "run.device=cpu"], "run.device is cpu"),
        (["--set", "run.device=cuda"], "slurm.gpus is 0, but run.device is cuda"),
        (["--set", "data.train=nothing.jsonl"], "nothing.jsonl"),
    ],
)
def test_a_job_that_cannot_run_is_not_submitted(
    slurm: FakeSlurm, project: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    out = tmp_path / "run"
    assert message in refuse("submit", project / "run.toml", "--out", out, *arguments)
    assert not out.exists() and not slurm.calls()


def test_without_slurm_the_run_can_be_submitted_later(
    slurm: FakeSlurm, project: Path, tmp_path: Path
) -> None:
    slurm.answer("sbatch", "", stderr="sbatch: error: Invalid partition\n", code=1)
    out = tmp_path / "run"
    printed = refuse("submit", project / "run.toml", "--out", out)
    assert "Invalid partition" in printed and "tunesmith slurm submit" in printed
    slurm.answer("sbatch", "8\n")
    assert "job: 8" in succeed("submit", out, "--partition", "main")
    assert "#SBATCH --partition=main\n" in (out / "slurm" / "job.sh").read_text()


def test_a_run_has_one_job_at_a_time(run: Path, slurm: FakeSlurm) -> None:
    assert "job 7 is already working on this run (running)" in refuse("submit", run)
    slurm.answer("squeue", "TIMEOUT|None|1:00|0:00|n1\n")
    slurm.answer("sbatch", "9\n")
    assert json.loads(succeed("submit", run, "--json"))["job"] == "9"
    assert "run file in it cannot be changed" in refuse("submit", run, "--set", "run.seed=6")


def test_a_finished_run_is_not_submitted(
    run: Path, slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm.answer("squeue", "COMPLETED|None|1:00|0:00|n1\n")
    event: dict[str, Any] = {"event": "run-finished", "status": "ok", "exit_code": 0}
    event |= {"time": 1.0, "finished": "2026-01-01T00:00:00+00:00", "seconds": 1.0}
    (run / "events.jsonl").write_text(json.dumps(event) + "\n")
    assert "the run is finished" in refuse("submit", run)


def test_status_shows_the_job_and_the_run(run: Path, slurm: FakeSlurm) -> None:
    printed = succeed("status", run)
    assert "state:      running\n" in printed and "time:       1:00, 9:00 left\n" in printed
    assert "run:        not begun\n" in printed and "step:" not in printed
    slurm.answer("squeue", "PENDING|Priority|0:00|10:00|\n")
    assert "reason:     Priority\n" in succeed("status", run)
    slurm.answer("squeue", "TIMEOUT|None|10:00|0:00|n1\n")
    result = call("status", run)
    assert "time:       10:00\n" in result.stdout
    assert f"tunesmith slurm submit {run}" in result.stderr


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (JobState("RUNNING", elapsed="1:00", time_left="9:00"), "1:00, 9:00 left"),
        (JobState("RUNNING", elapsed="1:00", time_left="UNLIMITED"), "1:00"),
        (JobState("COMPLETED", elapsed="1:00", time_left="9:00"), "1:00"),
        (JobState("unknown"), ""),
    ],
)
def test_the_time_left_is_that_of_a_job_with_a_limit(state: JobState, text: str) -> None:
    assert describe_time(state) == text


def test_the_log_is_that_of_the_newest_job(run: Path) -> None:
    assert "7.log: the job has not printed anything yet" in refuse("logs", run)
    (run / "slurm" / "7.log").write_text("one\ntwo\n")
    assert succeed("logs", run, "--lines", "1") == "two\n"


def test_cancel_ends_a_job_that_has_not_ended(run: Path, slurm: FakeSlurm) -> None:
    assert "canceled job 7" in succeed("cancel", run)
    assert slurm.calls("scancel") == ["scancel 7"]
    slurm.answer("squeue", "COMPLETED|None|1:00|9:00|n1\n")
    assert "job 7 has ended: completed" in succeed("cancel", run)
    assert slurm.calls("scancel") == ["scancel 7"]


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"job": 7, "submitted": ""}', '{"job": "-u root", "submitted": ""}'],
)
def test_a_damaged_file_of_the_job_is_named(tmp_path: Path, content: str) -> None:
    """Its number is an argument of Slurm's programs, so it must be a number."""
    (tmp_path / "lock").touch()
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm" / "job.json").write_text(content)
    assert "job.json" in refuse("cancel", tmp_path)

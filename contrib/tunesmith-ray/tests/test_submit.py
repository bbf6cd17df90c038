"""Commands without a cluster: what a dry run shows, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tunesmith.testing import ngram
from tunesmith_cli.app import app
from tunesmith_ray import PLUGIN, submit
from tunesmith_ray.job_file import Job, find_job
from tunesmith_ray.launcher import LAUNCHER


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["ray", *map(str, arguments)])


def refuse(*arguments: str | Path) -> str:
    result = call(*arguments)
    assert result.exit_code not in (0, 1), result.output
    return result.stderr


def test_each_offer_loads_its_command() -> None:
    names = ["submit", "status", "logs", "cancel"]
    loaded = [offer.load() for offer in PLUGIN.tunesmith_commands()]
    assert [command.name for command in loaded] == names and loaded[0] is submit.command


def test_a_dry_run_shows_the_work_and_needs_no_ray(project: Path, tmp_path: Path) -> None:
    before = sorted(project.rglob("*"))
    code = "import sys; sys.modules['ray'] = None; from tunesmith_cli.app import app; app()"
    done = subprocess.run(
        [sys.executable, "-c", code, "ray", "submit", str(project / "run.toml"), "--dry-run",
         "--out", str(tmp_path / "run"), "--workers", "3", "--gpus", "A100:2"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert "3 with CPU 1, GPU 2, accelerator_type:A100 0.001 each" in lines["workers"]
    assert lines["processes"].strip() == "6, 2 on each worker"
    assert lines["run folder"].strip() == str(tmp_path / "run")
    assert f"tunesmith resume {tmp_path / 'run'}" in lines["command"]
    assert sorted(project.rglob("*")) == before and not (tmp_path / "run").exists()


@pytest.mark.parametrize("has_code", [False, True])
def test_the_processes_of_a_run_with_code_trust_it(project: Path, has_code: bool) -> None:
    words = ["--set", f'plugins.files=["{ngram.__file__}"]'] if has_code else []
    result = call("submit", project / "run.toml", "--dry-run", *words)
    assert result.exit_code == 0, result.stderr
    assert ("TUNESMITH_TRUST_PLUGINS=1" in result.stdout) is has_code


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers", "0"], "ray.workers"),
        (["--gpus", "many"], "ray.gpus: must be a number"),
        (["--set", "ray.adress=a"], "ray.adress: unknown key"),
        (["--set", "ray.placement=near"], "ray.placement"),
        (["--gpus", "2", "--set", "run.device=cpu"], "run.device is cpu"),
        (["--set", "run.device=cuda"], "ray.gpus is 0, but run.device is cuda"),
        (["--address", "local", "--detach"], "would end with this command"),
    ],
)
def test_mistakes_are_named(
    project: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    out = tmp_path / "run"
    assert message in refuse("submit", project / "run.toml", "--out", out, "--dry-run", *arguments)
    assert not out.exists()


# --------------------------------------------------------------------------- the job of a run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run whose job has failed."""
    (tmp_path / "lock").touch()
    job = Job("a-1", None, "now", "failed", 4, ("n1", "n2"), 137, 1, "rank 1: ended by SIGKILL")
    job.write(tmp_path)
    return tmp_path


def test_the_job_is_read_as_it_was_written(run: Path) -> None:
    folder, job = LAUNCHER.open(run)
    assert folder.path == run and (job.state, job.failed_rank, job.starts) == ("failed", 1, 4)


def test_status_shows_a_job_that_has_ended_without_a_cluster(run: Path) -> None:
    result = call("status", run)
    assert result.exit_code == 0, result.stderr
    assert "state:      failed\n" in result.stdout and "machines:   n1, n2\n" in result.stdout
    assert "run:        not begun\n" in result.stdout
    assert f"tunesmith ray logs {run} --rank 1" in result.stderr
    content = json.loads(call("status", run, "--json").stdout)
    assert (content["schema"], content["exit_code"]) == ("tunesmith.ray-status/1", 137)


def test_the_log_is_that_of_the_process(run: Path) -> None:
    assert "rank-1.log: the job has not printed anything yet" in refuse("logs", run, "--rank", "1")
    (run / "ray" / "rank-1.log").write_text("one\ntwo\n")
    assert call("logs", run, "--rank", "1", "--lines", "1").stdout == "two\n"


def test_a_job_that_has_ended_cannot_be_cancelled(run: Path) -> None:
    assert "the run has ended: failed" in call("cancel", run).stdout


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"name": "a", "state": "running"}'])
def test_a_damaged_file_of_the_job_is_named(run: Path, content: str) -> None:
    (run / "ray" / "job.json").write_text(content)
    assert "job.json: is damaged or was changed" in refuse("cancel", run)


def test_an_unknown_state_is_damage(run: Path) -> None:
    path = run / "ray" / "job.json"
    content: dict[str, Any] = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "state": "lost"}))
    assert "is damaged or was changed" in refuse("status", run)
    assert find_job(run.parent) is None

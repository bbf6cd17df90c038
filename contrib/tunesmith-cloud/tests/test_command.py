"""The command: what it prints, writes and refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from schemas import VALIDATE

from tunesmith_cli.app import app
from tunesmith_cloud.launchers import LAUNCHERS


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["submit", *map(str, arguments)])


NEEDED = ("--image", "python:3.12", "--volume", "runs")


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_dry_run_prints_a_valid_file_and_writes_nothing(launcher: str, project: Path) -> None:
    before = sorted(project.rglob("*"))
    result = call(project / "run.toml", "--on", launcher, "--dry-run", *NEEDED)
    assert result.exit_code == 0, result.output
    VALIDATE[launcher](yaml.safe_load(result.output))
    assert sorted(project.rglob("*")) == before


def test_the_file_is_written_with_the_next_command(project: Path, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    result = call(
        project / "run.toml", "--on", "skypilot", *NEEDED, "--output", path, "--name", "Tickets 2"
    )
    assert result.exit_code == 0, result.output
    assert yaml.safe_load(path.read_text())["name"] == "tickets-2"
    assert "run folder: /runs/tickets-2" in result.output
    assert f"sky jobs launch {path}" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--on", "slurm", "--no-plugin", "slurm"], "contrib/tunesmith-slurm"),
        (["--on", "ray", "--no-plugin", "ray"], "contrib/tunesmith-ray"),
        (["--on", "ray", "--volume", "runs"], "--volume: goes with kubernetes, skypilot, dstack"),
        (["--on", "slurm", "--output", "a"], "--output: goes with"),
        (["--on", "dstack", "--gpus", "many"], "cloud.gpus: must be a number"),
        (["--on", "dstack", "--set", "cloud.iamge=a"], "cloud.iamge: unknown key"),
        (["--on", "dstack", "--gpus", "1", "--set", "run.device=cpu"], "run.device is cpu"),
        (["--on", "nomad"], "invalid value for '--on'"),
    ],
)
def test_mistakes_are_named(project: Path, arguments: list[str], message: str) -> None:
    result = call(project / "run.toml", *arguments, "--dry-run")
    assert result.exit_code == 2
    assert message in result.output


def test_a_job_without_a_volume_is_warned_of(project: Path, tmp_path: Path) -> None:
    result = call(project / "run.toml", "--on", "dstack", "--output", tmp_path / "job.yaml")
    assert "the run folder is lost when the machine ends" in result.output


SUBMITTER = """
import click

from tunesmith.hookspecs import hookimpl
from tunesmith.offers import CommandOffer


@click.command("submit", context_settings={"ignore_unknown_options": True})
@click.argument("words", nargs=-1)
def command(words):
    click.echo(repr(words))
    return 75


@hookimpl
def tunesmith_commands():
    return [CommandOffer(name="ray submit", summary="Execute a run.", load=lambda: command)]
"""


def test_a_cluster_with_a_plugin_of_its_own_gets_the_run(project: Path, tmp_path: Path) -> None:
    """With its arguments, and its exit code is that of the command."""
    (tmp_path / "submitter.py").write_text(SUBMITTER)
    common = ("--plugin", str(tmp_path / "submitter.py"), "--no-plugin", "ray")
    words = ["submit", str(project / "run.toml"), "--on", "ray", "--set", "run.seed=5",
             "--gpus", "2", "--dry-run"]  # fmt: skip
    result = CliRunner().invoke(app, [*common, *words])
    assert result.exit_code == 75, result.output
    assert result.stdout.strip() == repr(
        (str(project / "run.toml"), "--set", "run.seed=5", "--gpus", "2", "--dry-run")
    )

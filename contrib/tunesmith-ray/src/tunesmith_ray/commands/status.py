"""``tunesmith ray status``: how a run on a Ray cluster goes."""

from __future__ import annotations

from pathlib import Path

import click

from tunesmith import api
from tunesmith.execution.report import Report
from tunesmith_cli import render
from tunesmith_cli.common import common_options, json_option
from tunesmith_cli.launch import open_job
from tunesmith_ray.follow import lose
from tunesmith_ray.job_file import Job, find_job, is_silent


@click.command("status")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@json_option
@common_options
def command(run: Path, as_json: bool) -> None:
    """Show where a run is executed, how often it was started, and how far it has got."""
    folder, job = open_job(run, find_job, "ray")
    if job.is_active:
        job = check_supervisor(folder.path, job)
    report = api.read_report(folder.path)
    if as_json:
        render.print_json(to_json(job, report))
        return
    for name, value in list_facts(job, report):
        render.print_text(f"{name + ':':<12}{value}")
    show_next(render.shell_path(run), job)


def check_supervisor(folder: Path, job: Job) -> Job:
    """Return the job; as one that is lost if its supervisor is gone, and on no other cluster."""
    from tunesmith_ray import cluster

    with cluster.connect(job.address):
        is_here = cluster.find_supervisor(job.name) is not None
    return read_again(folder, job, is_lost=not is_here and is_silent(folder))


def read_again(folder: Path, job: Job, *, is_lost: bool) -> Job:
    """Return the job as its file has it now: its supervisor may have ended it in the meantime."""
    job = find_job(folder) or job
    return lose(folder, job) if is_lost and job.is_active else job


def list_facts(job: Job, report: Report) -> list[tuple[str, str]]:
    """Return what is known, each with its name."""
    facts = [
        ("submitted", job.submitted),
        ("state", job.state),
        ("reason", job.reason),
        ("machines", ", ".join(dict.fromkeys(job.hosts))),
        ("starts", str(job.starts) if job.starts else ""),
        ("run", report.status if report.started else "not begun"),
        ("step", describe_step(report)),
    ]
    return [fact for fact in facts if fact[1]]


def describe_step(report: Report) -> str:
    """Return the newest step of the training, of all its steps; "" before the first."""
    if not report.steps:
        return ""
    last = list(report.steps.values())[-1]
    return f"{last.step} of {last.steps}, loss {last.loss:.3f}"


def show_next(run: str, job: Job) -> None:
    """Print the command that is useful next."""
    if job.state == "finished":
        render.print_note(f"\nsee the results:\n  tunesmith report {run}")
    elif not job.is_active:
        rank = f" --rank {job.failed_rank}" if job.failed_rank else ""
        render.print_note(f"\nsee what happened:\n  tunesmith ray logs {run}{rank}")
        render.print_note(f"\ncontinue it:\n  tunesmith ray submit {run}")


def to_json(job: Job, report: Report) -> dict[str, object]:
    """Return what is known as JSON."""
    last = list(report.steps.values())[-1] if report.steps else None
    return {
        "schema": "tunesmith.ray-status/1",
        "submitted": job.submitted,
        "state": job.state,
        "is_active": job.is_active,
        "reason": job.reason,
        "hosts": list(job.hosts),
        "starts": job.starts,
        "exit_code": job.exit_code,
        "failed_rank": job.failed_rank,
        "run": report.status if report.started else "not begun",
        "step": last.step if last else None,
        "steps": last.steps if last else None,
    }

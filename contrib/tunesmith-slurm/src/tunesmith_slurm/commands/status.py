"""``tunesmith slurm status``: the job and the progress of a run."""

from __future__ import annotations

from pathlib import Path

import click

from tunesmith import api
from tunesmith.execution.report import Report
from tunesmith_cli import render
from tunesmith_cli.common import common_options, json_option
from tunesmith_cli.launch import open_job
from tunesmith_slurm import programs
from tunesmith_slurm.job_file import SubmittedJob, find_job
from tunesmith_slurm.programs import JobState


@click.command("status")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@json_option
@common_options
def command(run: Path, as_json: bool) -> None:
    """Show the job of a run as Slurm sees it, and how far the run has got."""
    folder, job = open_job(run, find_job, "slurm")
    state = programs.query_job(job.job)
    report = api.read_report(folder.path)
    if as_json:
        render.print_json(to_json(job, state, report))
        return
    for name, value in list_facts(job, state, report):
        render.print_text(f"{name + ':':<12}{value}")
    show_next(render.shell_path(run), state, report)


def list_facts(job: SubmittedJob, state: JobState, report: Report) -> list[tuple[str, str]]:
    """Return what is known, each with its name."""
    facts = [
        ("job", f"{job.job}, submitted {job.submitted}"),
        ("state", state.state.lower()),
        ("reason", state.reason),
        ("node", state.nodes),
        ("time", describe_time(state)),
        ("run", report.status if report.started else "not begun"),
        ("step", describe_step(report)),
    ]
    return [fact for fact in facts if fact[1]]


def describe_time(state: JobState) -> str:
    """Return how long the job runs, and how long it may."""
    is_limited = state.is_active and state.time_left not in ("", "UNLIMITED", "NOT_SET", "INVALID")
    return f"{state.elapsed}, {state.time_left} left" if is_limited else state.elapsed


def describe_step(report: Report) -> str:
    """Return the newest step of the training, of all its steps; "" before the first."""
    if not report.steps:
        return ""
    last = list(report.steps.values())[-1]
    return f"{last.step} of {last.steps}, loss {last.loss:.3f}"


def show_next(run: str, state: JobState, report: Report) -> None:
    """Print the command that is useful next."""
    if report.status == "ok":
        render.print_note(f"\nsee the results:\n  tunesmith report {run}")
    elif not state.is_active:
        render.print_note(f"\nsee what happened:\n  tunesmith slurm logs {run}")
        render.print_note(f"\ncontinue in a new job:\n  tunesmith slurm submit {run}")


def to_json(job: SubmittedJob, state: JobState, report: Report) -> dict[str, object]:
    """Return what is known as JSON."""
    last = list(report.steps.values())[-1] if report.steps else None
    return {
        "schema": "tunesmith.slurm-status/1",
        "job": job.job,
        "submitted": job.submitted,
        "state": state.state,
        "reason": state.reason,
        "nodes": state.nodes,
        "is_active": state.is_active,
        "run": report.status if report.started else "not begun",
        "step": last.step if last else None,
        "steps": last.steps if last else None,
    }

"""``tunesmith slurm submit``: submit a run as a Slurm job."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import click

from tunesmith import api
from tunesmith.errors import EnvironmentProblem, UsageError
from tunesmith.plan import Plan
from tunesmith.storage import RunFolder, write_atomic
from tunesmith_cli import render
from tunesmith_cli.common import CliState
from tunesmith_cli.launch import (
    create_run,
    given_flags,
    open_run,
    override_options,
    planned_folder,
    refuse_unsuitable_job,
    write_job,
)
from tunesmith_cli.launch_commands import submit_options
from tunesmith_slurm import programs
from tunesmith_slurm.job_file import SubmittedJob, find_job
from tunesmith_slurm.options import FLAGS, SlurmOptions
from tunesmith_slurm.prediction import list_warnings
from tunesmith_slurm.script import build_script


@click.command("submit")
@click.argument("run", metavar="RUN.toml|RUN", type=click.Path(path_type=Path))
@submit_options(SlurmOptions, FLAGS, "slurm", dry_run="Print the script without submitting it.")
def command(
    state: CliState,
    run: Path,
    sets: tuple[str, ...],
    out: Path | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Submit a run as a Slurm job, or continue an interrupted run folder.

    The run folder is created here and the job works in it, so `tunesmith report RUN` shows the same
    as for a local run. A job that is preempted, reaches its time limit or loses its node is
    requeued, and continues from the last checkpoint.
    """
    folder, plan = open_run(run, sets=sets, out=out, files=state.files, disabled=state.disabled)
    if folder:
        refuse_second_job(folder.path)
    flags = given_flags(click.get_current_context())
    options = override_options(plan.table(SlurmOptions), flags, "slurm")
    check_run(plan, options)
    path = folder.path.absolute() if folder else planned_folder(plan, out)
    script = build_script(options, path, name=plan.name)
    if dry_run:
        render.print_text(script.rstrip("\n"))
        return
    for text in list_warnings(plan, options):
        render.print_note(f"warning: {text}", style="warning")
    folder = folder or create_run(plan, out)
    # A new folder only gets its name now.
    script = build_script(options, folder.path.absolute(), name=plan.name)
    show(folder, submit(folder, script), as_json)


def refuse_second_job(run: Path) -> None:
    """Reject a run that already has a job.

    Raises:
        UsageError: the run's newest job is waiting or running.
    """
    job = find_job(run)
    if job and (found := programs.query_job(job.job)).is_active:
        raise UsageError(
            f"{run}: job {job.job} is already working on this run ({found.state.lower()})",
            hint="to stop the job: tunesmith slurm cancel",
        )


def check_run(plan: Plan, options: SlurmOptions) -> None:
    """Reject a run that the job cannot execute.

    Raises:
        UsageError: the technique supports only one process but the job has several, or the run
            trains on a device that the job does not have.
        EnvironmentProblem: the weights of the model are missing.
    """
    api.require_runnable(plan)
    refuse_unsuitable_job(
        plan, options.gpus, options.process_count, table="slurm", hint="add --processes 1"
    )


def submit(folder: RunFolder, script: str) -> SubmittedJob:
    """Write the script to the run folder, submit it, and return the job.

    Raises:
        EnvironmentProblem: Slurm is not installed, or rejected the job.
    """
    path = folder.path / "slurm" / "job.sh"
    path.parent.mkdir(exist_ok=True)
    write_atomic(path, script)
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    try:
        job = SubmittedJob(programs.submit_script(path.absolute()), now)
    except EnvironmentProblem as error:
        again = f"tunesmith slurm submit {render.shell_path(folder.path)}"
        error.hint = f"{error.hint}; then submit the run again: {again}" if error.hint else again
        raise
    write_job(folder.path, "slurm", job)
    return job


def show(folder: RunFolder, job: SubmittedJob, as_json: bool) -> None:
    """Print the job and the run folder."""
    if as_json:
        content = {"job": job.job, "folder": str(folder.path), "log": str(job.log(folder.path))}
        render.print_json({"schema": "tunesmith.slurm-submit/1", **content})
        return
    run = render.shell_path(folder.path)
    render.print_text(f"job: {job.job}")
    render.print_text(f"run folder: {folder.path}")
    render.print_note(f"\nShow its status:\n  tunesmith slurm status {run}")

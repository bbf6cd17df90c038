"""``tunesmith slurm submit``: submit a run to Slurm as a job."""

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
@submit_options(SlurmOptions, FLAGS, "slurm", dry_run="Print the script, and do nothing.")
def command(
    state: CliState,
    run: Path,
    sets: tuple[str, ...],
    out: Path | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Submit a run to Slurm as a job, or the folder of a run that was interrupted.

    The run folder is created here, and the job continues it: with `tunesmith report RUN` you see
    the same as of a run on this machine. A job that is preempted, reaches its time limit or loses
    its node is requeued, and continues at the last checkpoint.
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
    # Only now does a new folder have its name.
    script = build_script(options, folder.path.absolute(), name=plan.name)
    show(folder, submit(folder, script), as_json)


def refuse_second_job(run: Path) -> None:
    """Refuse a run that has a job already.

    Raises:
        UsageError: its newest job waits or runs.
    """
    job = find_job(run)
    if job and (found := programs.query_job(job.job)).is_active:
        raise UsageError(
            f"{run}: job {job.job} works on this run, it is {found.state.lower()}",
            hint="tunesmith slurm cancel ends it",
        )


def check_run(plan: Plan, options: SlurmOptions) -> None:
    """Refuse a run that the job could not execute.

    Raises:
        UsageError: its technique trains with one process, and the job has several; or it trains on
            another device than the job has.
        EnvironmentProblem: the weights of the model are missing.
    """
    api.refuse_unrunnable(plan)
    refuse_unsuitable_job(
        plan, options.gpus, options.process_count, table="slurm", hint="--processes 1"
    )


def submit(folder: RunFolder, script: str) -> SubmittedJob:
    """Write the script into the run folder and submit it; return the job.

    Raises:
        EnvironmentProblem: Slurm is not there, or refuses the job.
    """
    path = folder.path / "slurm" / "job.sh"
    path.parent.mkdir(exist_ok=True)
    write_atomic(path, script)
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    try:
        job = SubmittedJob(programs.submit_script(path.absolute()), now)
    except EnvironmentProblem as error:
        again = f"tunesmith slurm submit {render.shell_path(folder.path)}"
        error.hint = f"{error.hint}; then submit this run: {again}" if error.hint else again
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
    render.print_note(f"\nsee how it goes:\n  tunesmith slurm status {run}")

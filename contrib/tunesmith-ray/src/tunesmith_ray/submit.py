"""``tunesmith ray submit``: run a run file on a Ray cluster."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from tunesmith import api
from tunesmith.config.trust import find_code
from tunesmith.errors import UsageError
from tunesmith.plan import Plan
from tunesmith.storage import RunFolder
from tunesmith_cli import render
from tunesmith_cli.common import CliState
from tunesmith_cli.launch import (
    create_run,
    given_flags,
    open_run,
    override_options,
    planned_folder,
    read_last_lines,
    refuse_unsuitable_job,
)
from tunesmith_cli.launch_commands import submit_options
from tunesmith_ray.follow import wait_for_job
from tunesmith_ray.job_file import HEARTBEAT_TIMEOUT_SECONDS, Job, find_job, is_heartbeat_missing
from tunesmith_ray.options import FLAGS, LOCAL, RayOptions
from tunesmith_ray.work import Work
from tunesmith_ray.worker import log_path

SHOWN_LINES = 30
"""Number of lines to show from the log of a failed process."""


@click.command("submit")
@click.argument("run", metavar="RUN.toml|RUN", type=click.Path(path_type=Path))
@submit_options(
    RayOptions, FLAGS, "ray", dry_run="Print what would be started without starting it."
)
@click.option("--detach", is_flag=True, help="Return immediately; see `tunesmith ray status`.")
def command(  # noqa: PLR0913 - one parameter for each option of the command line
    state: CliState,
    run: Path,
    sets: tuple[str, ...],
    out: Path | None,
    dry_run: bool,
    detach: bool,
    as_json: bool,
) -> int:
    """Run a run file on a Ray cluster, or continue an interrupted run folder.

    The run folder is created here, on a file system that all machines share. Without --detach, the
    command shows the progress, and ends with the run's report and exit code. Ctrl-C stops the run
    after its current step. If a process or a machine is lost, the run continues from its last
    checkpoint.
    """
    folder, plan = open_run(run, sets=sets, out=out, files=state.files, disabled=state.disabled)
    flags = given_flags(click.get_current_context())
    options = override_options(plan.table(RayOptions), flags, "ray")
    check_run(plan, options, detach=detach)
    path = folder.path if folder else planned_folder(plan, out)
    # The code is trusted, because the user starts this run file or was asked about the run folder's
    # code.
    trusts_code = bool(find_code(plan.to_json(), path))
    work = Work.from_options(path, options, trusts_code=trusts_code)
    if dry_run:
        show_work(work, options)
        return 0
    from tunesmith_ray import cluster  # imports Ray

    with cluster.connect(options.address):
        if folder:
            refuse_second_job(folder.path)
        check_resources(cluster.find_shortage(work), options)
        folder = folder or create_run(plan, out)
        work = replace(work, folder=str(folder.path.absolute()))  # A new folder is only known now.
        supervisor = begin(work, options.address)
        if detach:
            show_begin(folder, as_json)
            return 0
        render.print_note(f"run folder: {folder.path}")
        job = wait_for_job(folder.path, is_alive=lambda: cluster.is_alive(supervisor))
    show_report(folder, as_json)
    return show_end(folder, job)


def check_run(plan: Plan, options: RayOptions, *, detach: bool) -> None:
    """Reject a run that the workers cannot execute.

    Raises:
        UsageError: the technique supports only one process but the job has several, the run trains
            on a device that the workers do not have, or Ray would end with this command.
        EnvironmentProblem: the weights of the model are missing.
    """
    api.require_runnable(plan)
    refuse_unsuitable_job(
        plan, options.gpus, options.process_count, table="ray", hint="add --workers 1 --processes 1"
    )
    if detach and options.address == LOCAL:
        raise UsageError(
            "--detach: the Ray cluster that is started for this run would end with this command",
            hint="start Ray with `ray start --head`, and omit --address",
        )


def check_resources(shortage: str, options: RayOptions) -> None:
    """Print a warning if the cluster lacks resources, or raise an error if no machine can join.

    Raises:
        UsageError: Ray was started on this machine for one run, and the machine has too few
            resources.
    """
    if not shortage:
        return
    if options.address == LOCAL:
        raise UsageError(
            shortage.partition(":")[0], hint="request fewer resources, for example --cpus 1"
        )
    render.print_note(f"warning: {shortage}", style="warning")


def refuse_second_job(run: Path) -> None:
    """Reject a run that is already on this cluster or on another cluster.

    Raises:
        UsageError: the run's supervisor is alive.
    """
    from tunesmith_ray import cluster

    job = find_job(run)
    if not job or not job.is_active:
        return
    hint = f"to stop the run: tunesmith ray cancel {render.shell_path(run)}"
    if cluster.find_supervisor(job.name):
        raise UsageError(f"{run}: the run is already on this cluster ({job.state})", hint=hint)
    render.print_note(
        f"the run was {job.state} on another cluster; waiting up to "
        f"{HEARTBEAT_TIMEOUT_SECONDS:g} s for a "
        "heartbeat"
    )
    if not is_heartbeat_missing(run):
        raise UsageError(
            f"{run}: the run is on another cluster ({job.address or 'default address'}) and "
            f"{job.state} there",
            hint=hint,
        )


def begin(work: Work, address: str | None) -> Any:
    """Write the job into the run folder, start its supervisor, and return the supervisor."""
    from tunesmith_ray import cluster

    folder = Path(work.folder)
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    job = Job(cluster.name_supervisor(folder), address, now)
    job.write(folder)
    return cluster.create_supervisor(job.name, work)


def show_work(work: Work, options: RayOptions) -> None:
    """Print the processes and resources that a submission would start."""
    for name, value in work.describe(options.address):
        render.print_text(f"{name + ':':<21}{value}")


def show_begin(folder: RunFolder, as_json: bool) -> None:
    """Print the run folder and the next command."""
    if as_json:
        content = {"schema": "tunesmith.ray-submit/1", "folder": str(folder.path)}
        render.print_json(content)
        return
    render.print_text(f"run folder: {folder.path}")
    render.print_note(
        f"\nShow its status:\n  tunesmith ray status {render.shell_path(folder.path)}"
    )


def show_report(folder: RunFolder, as_json: bool) -> None:
    """Print the report like `tunesmith report`, if that command is installed."""
    root = click.get_current_context().find_root()
    report = (
        root.command.get_command(root, "report") if isinstance(root.command, click.Group) else None
    )
    if report:
        words = [str(folder.path), *(["--json"] if as_json else [])]
        with report.make_context("report", words, parent=root) as below:
            report.invoke(below)


def show_end(folder: RunFolder, job: Job) -> int:
    """Print why a run did not finish, and the failed process's log; return its exit code."""
    if job.state == "finished":
        return 0
    render.print_note(f"\nrun {job.state}: {job.reason}", style="bad")
    if job.failed_rank is not None:
        path = log_path(folder.path, job.failed_rank)
        render.print_note(f"\nLast lines of {path}:\n")
        for line in read_last_lines(path, SHOWN_LINES):
            render.print_note(f"  {line}")
    run = render.shell_path(folder.path)
    render.print_note(f"\nContinue the run:\n  tunesmith ray submit {run}")
    return job.exit_code or 1

"""``tunesmith slurm cancel``: cancel the job of a run."""

from __future__ import annotations

from pathlib import Path

import click

from tunesmith_cli import render
from tunesmith_cli.common import common_options
from tunesmith_cli.launch import open_job
from tunesmith_slurm import programs
from tunesmith_slurm.job_file import find_job


@click.command("cancel")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@common_options
def command(run: Path) -> None:
    """Cancel the job of a run. The run stops after its step and can be continued.

    Slurm waits for it for the cluster's KillWait, by default 30 seconds.
    """
    _, job = open_job(run, find_job, "slurm")
    state = programs.query_job(job.job)
    if not state.is_active:
        render.print_text(f"job {job.job} has ended: {state.state.lower()}")
        return
    programs.cancel_job(job.job)
    render.print_text(f"job {job.job} is cancelled")
    render.print_note(
        f"\ncontinue in a new job:\n  tunesmith slurm submit {render.shell_path(run)}"
    )

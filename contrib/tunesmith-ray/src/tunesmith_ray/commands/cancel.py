"""``tunesmith ray cancel``: stop a run on a Ray cluster."""

from __future__ import annotations

from pathlib import Path

import click

from tunesmith_cli import render
from tunesmith_cli.common import common_options
from tunesmith_cli.launch import open_job
from tunesmith_ray.job_file import find_job, is_silent, request_cancel


@click.command("cancel")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@common_options
def command(run: Path) -> None:
    """Stop a run on a Ray cluster. It stops after its step and can be continued.

    The processes have the time of ray.grace_seconds for it.
    """
    folder, job = open_job(run, find_job, "ray")
    if not job.is_active:
        render.print_text(f"the run has ended: {job.state}")
        return
    # The supervisor reads it, also one that Ray creates again, and on a cluster not seen from here.
    request_cancel(folder.path, job.name)
    if is_silent(folder.path):
        render.print_text("the run has ended: its supervisor was lost")
    else:
        render.print_text("the run stops after this step")
    render.print_note(f"\ncontinue it:\n  tunesmith ray submit {render.shell_path(run)}")

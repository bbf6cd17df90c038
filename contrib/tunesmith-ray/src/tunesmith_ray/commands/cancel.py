"""``tunesmith ray cancel``: stop a run on a Ray cluster."""

from __future__ import annotations

from pathlib import Path

import click

from tunesmith.cli import render
from tunesmith.cli.common import common_options
from tunesmith_ray.job_file import find_job
from tunesmith_torch.runtime.launch import open_job


@click.command("cancel")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@common_options
def command(run: Path) -> None:
    """Stop a run on a Ray cluster. It stops after its step and can be continued.

    The processes have the time of ray.grace_seconds for it.
    """
    _, job = open_job(run, find_job, "ray")
    if not job.is_active:
        render.print_text(f"the run has ended: {job.state}")
        return
    from tunesmith_ray import cluster

    with cluster.connect(job.address):
        supervisor = cluster.find_supervisor(job.name)
        if supervisor is None:
            render.print_text("the run has ended: its supervisor was lost")
        else:
            cluster.cancel(supervisor)
            render.print_text("the run stops after this step")
    render.print_note(f"\ncontinue it:\n  tunesmith ray submit {render.shell_path(run)}")

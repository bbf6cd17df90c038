"""``tunesmith slurm logs``: what the job of a run has printed."""

from __future__ import annotations

from pathlib import Path

import click

from tunesmith.errors import UsageError
from tunesmith_cli import render
from tunesmith_cli.common import common_options
from tunesmith_cli.launch import open_job, read_end
from tunesmith_slurm.job_file import find_job


@click.command("logs")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--lines",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    help="Lines from the end of the log.",
)
@common_options
def command(run: Path, lines: int) -> None:
    """Print the end of what the newest job of a run has printed, over all its starts."""
    folder, job = open_job(run, find_job, "slurm")
    path = job.log(folder.path)
    if not path.is_file():
        raise UsageError(
            f"{path}: job {job.job} has printed nothing yet",
            hint=f"tunesmith slurm status {render.shell_path(run)} shows whether it waits",
        )
    render.print_note(f"{path}\n")
    for line in read_end(path, lines):
        render.print_text(line)

"""``tunesmith ray logs``: what a process of a run has printed."""

from __future__ import annotations

from pathlib import Path

import click

from tunesmith.errors import UsageError
from tunesmith_cli import render
from tunesmith_cli.common import common_options
from tunesmith_cli.launch import open_job, read_end
from tunesmith_ray.job_file import find_job
from tunesmith_ray.worker import log_path


@click.command("logs")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--rank", type=click.IntRange(0), default=0, show_default=True, help="Number of the process."
)
@click.option(
    "--lines",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    help="Lines from the end of the log.",
)
@common_options
def command(run: Path, rank: int, lines: int) -> None:
    """Print the end of what a process of a run has printed, over all its starts."""
    folder, _ = open_job(run, find_job, "ray")
    path = log_path(folder.path, rank)
    if not path.is_file():
        raise UsageError(
            f"{path}: rank {rank} was not started",
            hint=f"tunesmith ray status {render.shell_path(run)} shows whether the run waits",
        )
    render.print_note(f"{path}\n")
    for line in read_end(path, lines):
        render.print_text(line)

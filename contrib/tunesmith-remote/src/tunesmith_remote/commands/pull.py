"""``tunesmith remote pull``: download a run from a bucket."""

from __future__ import annotations

from pathlib import Path

import click

from tunesmith.storage import Checkpoints, RunFolder
from tunesmith.text import format_bytes, format_count
from tunesmith_cli import render
from tunesmith_cli.common import common_options


@click.command("pull")
@click.argument("url", metavar="URL")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@common_options
def command(url: str, run: Path) -> None:
    """Download the newest intact state of a run from URL into the new folder RUN.

    Every file is verified by its checksum. A damaged checkpoint is skipped with a warning.
    """
    from tunesmith_remote.bucket import Bucket
    from tunesmith_remote.pull import pull_run

    bucket = Bucket(url)
    pulled = pull_run(bucket, run)
    for problem in pulled.problems:
        render.print_note(f"warning: {problem}", style="warning")
    snapshot = pulled.snapshot
    render.print_text(
        f"pulled snapshot {snapshot.number} to {run}: {format_count(len(snapshot.files), 'file')}, "
        f"{format_bytes(pulled.size)}, pushed {snapshot.created} by {snapshot.host}"
    )
    steps = Checkpoints(RunFolder.open(run).checkpoints).steps()
    if steps:
        render.print_text(f"newest checkpoint: step {steps[-1]}")
    render.print_note(f"\nContinue the run:\n  tunesmith resume {render.shell_path(run)}")

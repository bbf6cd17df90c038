"""``tunesmith unlock``: free a run that a dead machine has left locked."""

from __future__ import annotations

from pathlib import Path

import click

from tunesmith.storage import LEASE, LockHolder, RunFolder, lock
from tunesmith_cli import render
from tunesmith_cli.common import CliState, common_options, pass_state


@click.command("unlock")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@common_options
@pass_state
def command(state: CliState, run: Path) -> None:
    """Free a run that a dead machine has left locked.

    RUN is the run folder. A run on this machine is free as soon as its process has ended; this is
    for a machine that is gone, and a file system without locks. The run is freed after 20 seconds
    without a sign of life of its process; one that lives keeps it (exit code 2).
    """
    folder = RunFolder.open(run).path
    was_locked, holder = (folder / LEASE).exists(), LockHolder.read(folder)
    with lock(folder, take_over=True):
        pass
    if was_locked:
        by = holder or "a process whose name could not be read"
        render.print_text(f"{folder}: the run was locked by {by}; it is free now")
    else:
        render.print_text(f"{folder}: the run was not locked")

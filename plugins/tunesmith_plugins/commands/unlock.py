"""``tunesmith unlock``: release the lock of a run whose machine died."""

from __future__ import annotations

from pathlib import Path

import click

from tunesmith.storage import LEASE_FILE, LockHolder, RunFolder, lock
from tunesmith_cli import render
from tunesmith_cli.common import CliState, common_options, pass_state


@click.command("unlock")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@common_options
@pass_state
def command(state: CliState, run: Path) -> None:
    """Release the lock of a run whose machine died.

    RUN is the run folder. A run on this machine is unlocked automatically when its process ends.
    Use this command if the machine is gone, or if the file system does not support locks. It waits
    20 seconds for a heartbeat of the run's process. If the process is alive, the run stays locked
    and the exit code is 2.
    """
    folder = RunFolder.open(run).path
    was_locked, holder = (folder / LEASE_FILE).exists(), LockHolder.read(folder)
    with lock(folder, take_over=True):
        pass
    if was_locked:
        by = holder or "an unknown process"
        render.print_text(f"{folder}: unlocked; the run was locked by {by}")
    else:
        render.print_text(f"{folder}: the run was not locked")

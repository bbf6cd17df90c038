"""``tunesmith dashboard``: show runs in a full-screen terminal application."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from tunesmith.errors import EnvironmentProblem, UsageError


@click.command("dashboard")
@click.argument("folders", metavar="[FOLDER...]", nargs=-1, type=click.Path(path_type=Path))
def command(folders: tuple[Path, ...]) -> None:
    """Show the runs in each FOLDER (default: runs/) in the terminal, while they run.

    A FOLDER is a run, a search of `tunesmith tune`, or contains some. Nothing is written to a run,
    so the dashboard is safe to use beside a training, and over SSH. Press `?` for the keys.
    """
    roots = folders or (Path("runs"),)
    for root in roots:
        if not root.is_dir():
            hint = "name a run, or a folder that contains runs"
            raise UsageError(f"{root}: no such folder", hint=hint)
    is_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if not is_terminal or os.environ.get("TERM", "") in {"", "dumb"}:
        raise EnvironmentProblem(
            "dashboard: needs a terminal that can position the cursor",
            hint="without one, use: tunesmith runs FOLDER",
        )
    # Imported here because Textual is not needed for the help.
    from tunesmith_tui.app import Dashboard
    from tunesmith_tui.library import Library

    Dashboard(Library(roots)).run()

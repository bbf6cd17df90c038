"""``tunesmith runs``: list, find, unlock and delete runs."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from tunesmith.errors import UsageError
from tunesmith.storage import LEASE_FILE, LockHolder, RunFolder, lock
from tunesmith.text import format_bytes, format_count, one_line
from tunesmith_cli import render
from tunesmith_cli.common import CliState, result_options
from tunesmith_evidence.number_text import format_number
from tunesmith_plugins.commands.run_list.read_runs import RunSummary, measure_size, read_runs

MAX_PATH = 4096
"""Maximum characters of a path to show: enough for any path, so that all can be copied."""
STATUSES = ("ok", "failed", "stopped", "running", "unfinished", "damaged")
STYLES = {"ok": "good", "failed": "bad", "damaged": "bad", "running": "strong"}


@click.command("runs")
@click.argument("folder", metavar="[FOLDER]", type=click.Path(path_type=Path), default=Path("runs"))
@click.option(
    "--status",
    type=click.Choice(STATUSES),
    multiple=True,
    help="Only runs with this status. Repeatable.",
)
@click.option(
    "--tree", is_flag=True, help="Show each run under the run that it starts from, oldest first."
)
@click.option("--resumable", is_flag=True, help="Only runs that `tunesmith resume` can continue.")
@click.option(
    "--grep",
    metavar="TEXT",
    help="Only runs with this text in their folder, name, model, technique or verdict.",
)
@click.option(
    "--limit",
    type=click.IntRange(0),
    default=0,
    help="Show at most this many of the newest runs; 0 for all.",
)
@click.option(
    "--delete",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="RUN",
    help="Delete this run folder, after confirmation. Repeatable.",
)
@click.option("--yes", is_flag=True, help="Delete without confirmation.")
@click.option(
    "--unlock",
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="Release the lock that a dead machine left on this run folder.",
)
@result_options
def command(  # noqa: PLR0913 - one parameter for each option of the command line
    state: CliState,
    folder: Path,
    status: tuple[str, ...],
    tree: bool,
    resumable: bool,
    grep: str | None,
    limit: int,
    delete: tuple[Path, ...],
    yes: bool,
    unlock: Path | None,
    as_json: bool,
) -> None:
    """List the runs in FOLDER (default: runs/), newest first.

    For a run that starts from the result of another run, the list also shows that run.

    A run on this machine is unlocked automatically when its process ends. Use --unlock if the
    machine is gone, or if the file system does not support locks. --unlock waits 20 seconds for a
    heartbeat of the run's process. If the process is alive, the run stays locked and the exit code
    is 2.
    """
    if unlock is not None:
        unlock_run(unlock)
        return
    if delete:
        delete_runs(delete, yes)
        return
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder", hint="pass the folder that contains the runs")
    runs = [
        run
        for run in read_runs(folder)
        if (not status or run.status in status)
        and (run.is_resumable or not resumable)
        and (grep is None or matches_text(run, grep))
    ]
    runs = runs[:limit] if limit else runs
    if as_json:
        render.print_json({"schema": "tunesmith.runs/1", "runs": [run.to_json() for run in runs]})
    else:
        show(runs, folder, tree=tree)


def matches_text(run: RunSummary, text: str) -> bool:
    """Return True if any text field of a run contains the text, ignoring case."""
    fields = (str(run.path), run.name, run.model, run.technique, run.word, run.error)
    return any(text.casefold() in field.casefold() for field in fields)


def show(runs: Sequence[RunSummary], folder: Path, *, tree: bool = False) -> None:
    """Print the runs in a folder as a table."""
    if not runs:
        render.print_text("no runs")
        return
    found = order_tree(runs) if tree else [(run, 0) for run in runs]
    render.print_table(
        ["run", "status", "technique", "tuned", "verdict", "size"],
        [_to_row(run, folder, depth) for run, depth in found],
        right=(3, 5),
    )
    for run in runs:
        if run.parent and not tree:
            names = (path.relative_to(folder) for path in (run.path, Path(run.parent)))
            render.print_text(" starts from ".join(one_line(str(name)) for name in names))
    total = format_bytes(sum(run.bytes for run in runs))
    render.print_note(f"\n{format_count(len(runs), 'run')}, {total}")
    resumable = next((run for run in runs if run.is_resumable), None)
    if resumable is not None:
        path = render.shell_path(resumable.path)
        render.print_note(f"Continue the newest run marked *:\n  tunesmith resume {path}")


def order_tree(runs: Sequence[RunSummary]) -> list[tuple[RunSummary, int]]:
    """Return each run after the run that it starts from, with its depth, the oldest first."""
    shown = {str(run.path) for run in runs}
    ordered: list[tuple[RunSummary, int]] = []

    def add(parent: str, depth: int) -> None:
        for run in reversed(runs):
            if (run.parent if run.parent in shown else "") == parent:
                ordered.append((run, depth))
                add(str(run.path), depth + 1)

    add("", 0)
    return ordered


def _to_row(run: RunSummary, folder: Path, depth: int) -> list[render.TableCell]:
    value = "" if run.value is None else f"{one_line(run.metric, 20)} {format_number(run.value)}"
    outcome = one_line(run.word or run.error, 40)
    status = f"{run.status}*" if run.is_resumable else run.status
    return [
        "  " * depth + one_line(str(run.path.relative_to(folder)), MAX_PATH),
        (status, STYLES.get(run.status, "warning")),
        one_line(run.technique, 20),
        value,
        outcome,
        format_bytes(run.bytes),
    ]


def unlock_run(path: Path) -> None:
    """Release the lock of a run whose machine died.

    Raises:
        RunInUseError: the run's process is alive.
    """
    folder = RunFolder.open(path).path
    was_locked, holder = (folder / LEASE_FILE).exists(), LockHolder.read(folder)
    with lock(folder, take_over=True):
        pass
    by = f"unlocked the run, which was locked by {holder or 'an unknown process'}"
    render.print_text(f"{folder}: {by if was_locked else 'the run was not locked'}")


def delete_runs(paths: Sequence[Path], yes: bool) -> None:
    """Delete run folders after asking for confirmation.

    Raises:
        UsageError: a folder is not a run or is in use, or there is no terminal to ask on.
    """
    # Open all runs before deleting any, so that an invalid folder stops the command in time.
    folders = [RunFolder.open(path) for path in paths]
    size = format_bytes(sum(measure_size(folder.path) for folder in folders))
    what = f"{format_count(len(folders), 'run')} with {size}"
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError(
                "--delete: there is no terminal to ask for confirmation", hint="add --yes"
            )
        for folder in folders:
            render.print_text(str(folder.path))
        if not click.confirm(f"delete {what}, including the models?"):
            render.print_text("nothing was deleted")
            return
    for folder in folders:
        with lock(folder.path):  # This raises an error while the run is active.
            shutil.rmtree(folder.path)
        render.print_text(f"deleted {folder.path}")

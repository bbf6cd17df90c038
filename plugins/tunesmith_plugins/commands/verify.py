"""``tunesmith verify``: check that a run's checkpoints and model are intact, and ask plugins."""

from __future__ import annotations

from pathlib import Path

import click

from tunesmith.errors import IntegrityError
from tunesmith.execution.execute import load_report
from tunesmith.storage import MANIFEST, FileProblem, RunFolder, verify_folder
from tunesmith.text import format_count
from tunesmith_cli import render
from tunesmith_cli.common import CliState, result_options


@click.command("verify")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@result_options
def command(state: CliState, run: Path, as_json: bool) -> None:
    """Check that the checkpoints and the model of a run are intact, with SHA-256 checksums.

    Plugins can check more, such as a signature. RUN is the run folder. The exit code is 7 if a
    file is missing, was changed or was added.
    """
    folder = RunFolder.open(run)
    found = {name: verify_folder(folder.path / name) for name in list_committed(folder)}
    for plugin, finding in state.catalog().review_use(folder.path, "verify"):
        problems = found.setdefault(plugin.name, [])
        if finding.level == "info":
            render.print_note(finding.message)
        else:
            problems.append(FileProblem(finding.where or plugin.full_name, finding.message))
    damaged = {name: problems for name, problems in found.items() if problems}
    if as_json:
        folders = {name: [str(problem) for problem in problems] for name, problems in found.items()}
        render.print_json({"schema": "tunesmith.verify/1", "ok": not damaged, "folders": folders})
    else:
        for name, problems in found.items():
            render.print_text(
                f"{'FAIL' if problems else 'ok  '} {name}", style="bad" if problems else "good"
            )
            for problem in problems:
                render.print_text(f"       {problem}")
    if damaged:
        first = next(iter(damaged))
        raise IntegrityError(
            f"{folder.path / first}: {damaged[first][0]}"
            + (
                f", and {format_count(len(damaged) - 1, 'more folder')}" if len(damaged) > 1 else ""
            ),
            hint="restore the folder from a backup; `tunesmith resume` skips damaged checkpoints",
        )
    if not found:
        render.print_note("the run has no checkpoints and no trained model yet")


def list_committed(folder: RunFolder) -> list[str]:
    """List the folders of a run that must have a manifest, relative to the run folder.

    The list contains all folders with a manifest, the checkpoints, and the models and adapters that
    the event log names, even if they are missing.

    Raises:
        IntegrityError: the event log refers to a model or adapter outside the run folder.
    """
    found = {path.parent for path in folder.path.rglob(MANIFEST)}
    for event in load_report(folder).training_finished.values():
        found.add(folder.path / event.artifact)
    found |= set(folder.path.rglob("checkpoints/step-*"))
    names = (path.relative_to(folder.path) for path in found)
    return sorted(str(name) for name in names if not any(p.startswith(".") for p in name.parts))

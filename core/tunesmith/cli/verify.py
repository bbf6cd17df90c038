"""``tunesmith verify``: are a run's files what was committed?"""

from __future__ import annotations

from pathlib import Path

import click

from tunesmith.cli import render
from tunesmith.cli.common import State, common_options, json_option, pass_state
from tunesmith.errors import IntegrityError
from tunesmith.execution.execute import recorded
from tunesmith.storage import MANIFEST, RunFolder, verify
from tunesmith.text import count_text


@click.command("verify")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@json_option
@common_options
@pass_state
def command(state: State, run: Path, as_json: bool) -> None:
    """Check a run's checkpoints and artifact against their manifests, byte by byte.

    Exit code 7 if a file is missing, changed, or was added.
    """
    folder = RunFolder.open(run)
    found = {name: verify(folder.path / name) for name in committed(folder)}
    bad = {name: problems for name, problems in found.items() if problems}
    if as_json:
        folders = {name: [str(problem) for problem in problems] for name, problems in found.items()}
        render.data({"schema": "tunesmith.verify/1", "ok": not bad, "folders": folders})
    else:
        for name, problems in found.items():
            render.say(
                f"{'FAIL' if problems else 'ok  '} {name}", style="bad" if problems else "good"
            )
            for problem in problems:
                render.say(f"       {problem}")
    if bad:
        first = next(iter(bad))
        raise IntegrityError(
            f"{folder.path / first}: {bad[first][0]}"
            + (f", and {count_text(len(bad) - 1, 'more folder')}" if len(bad) > 1 else ""),
            hint="restore it from a copy, or resume the run from an older checkpoint",
        )
    if not found:
        render.remark("nothing was committed yet")


def committed(folder: RunFolder) -> list[str]:
    """Folders below the run that must have a manifest, relative to it.

    Those that have one, and those that would be read as a checkpoint or as the artifact although
    theirs, or the whole folder, is gone.
    """
    found = {path.parent for path in folder.path.rglob(MANIFEST)}
    trained = recorded(folder).trained.values()
    found |= {folder.path / event.artifact for event in trained}
    found |= set(folder.path.rglob("checkpoints/step-*"))
    names = (path.relative_to(folder.path) for path in found)
    return sorted(str(name) for name in names if not any(p.startswith(".") for p in name.parts))

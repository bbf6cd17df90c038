"""``tunesmith inspect-log``: write the evaluations of a run as logs of inspect."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import click

from tunesmith.errors import UsageError
from tunesmith.execution.execute import load_report
from tunesmith.storage import RunFolder
from tunesmith.text import format_count
from tunesmith_cli import render


@click.command("inspect-log")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder to create. Default: RUN/inspect.",
)
def command(run: Path, out: Path | None) -> None:
    """Write the rows, answers and scores of each model of RUN as logs for `inspect view`.

    The logs contain the test rows, so share them only with people who may read your data.
    """
    from inspect_ai.log import write_eval_log  # takes seconds

    from tunesmith_inspect.run_logs import make_logs

    folder = RunFolder.open(run)
    target = out or folder.path / "inspect"
    if target.exists():
        raise UsageError(f"{target}: already exists", hint="choose another folder with --out")
    logs = dict(make_logs(load_report(folder), folder.path))
    if not logs:
        raise UsageError(f"{run}: nothing has been measured yet", hint=f"tunesmith resume {run}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".inspect-", dir=target.parent) as temporary:
        part = Path(temporary, "logs")  # becomes the folder when it is complete
        part.mkdir()
        for name, log in logs.items():
            write_eval_log(log, part / f"{name}.eval")
        part.rename(target)
    render.print_text(f"wrote {format_count(len(logs), 'log')} to {render.shell_path(target)}")
    render.print_note(f"next: inspect view --log-dir {render.shell_path(target)}")

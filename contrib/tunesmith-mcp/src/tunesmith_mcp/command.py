"""``tunesmith mcp``: serve one folder to an assistant over stdin and stdout."""

from __future__ import annotations

from pathlib import Path

import click

from tunesmith_mcp.workspace import Workspace

_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


@click.command("mcp")
@click.argument("folder", type=_FOLDER)
@click.option(
    "--read",
    "readable",
    multiple=True,
    type=_FOLDER,
    metavar="FOLDER",
    help="Another folder that run files may read, such as one with models. Repeatable.",
)
@click.option("--allow-runs", is_flag=True, help="Let the assistant start and stop runs.")
@click.option(
    "--allow-code",
    is_flag=True,
    help="Accept run files that name Python files or functions, which are executed.",
)
@click.option(
    "--seconds",
    type=click.IntRange(1, 86_400),
    default=1_800,
    show_default=True,
    help="Time limit of one call.",
)
def command(
    folder: Path, readable: tuple[Path, ...], allow_runs: bool, allow_code: bool, seconds: int
) -> None:
    """Serve the run files and runs in FOLDER to an assistant.

    The assistant starts this command and talks to it over stdin and stdout, in the Model Context
    Protocol. It can check and plan run files and read results. It cannot read files outside FOLDER,
    and cannot start runs unless you allow it.
    """
    from tunesmith_mcp.server import build_server  # takes a second

    workspace = Workspace(folder.resolve(), [path.resolve() for path in readable], allow_code)
    build_server(workspace, seconds=seconds, allow_runs=allow_runs).run()

"""``tunesmith plugins new``: create a plugin from a template."""

from __future__ import annotations

from pathlib import Path

import click

from tunesmith.errors import UsageError
from tunesmith_cli import render
from tunesmith_cli.common import common_options
from tunesmith_cli.groups import find_commands
from tunesmith_plugins.commands.plugin_template.kinds import KINDS
from tunesmith_plugins.commands.plugin_template.write_plugin import write_file, write_plugin


@click.command("new")
@click.argument("name")
@click.option(
    "--kind", required=True, metavar="KIND", help=f"Kind of component: {', '.join(KINDS)}."
)
@click.option(
    "--file", "as_file", is_flag=True, help="Write a single file, NAME.py, without tests."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder or file to write. Default: tunesmith-NAME, or NAME.py with --file.",
)
@common_options
@click.pass_context
def command(ctx: click.Context, name: str, kind: str, as_file: bool, out: Path | None) -> None:
    """Create a plugin with a working component and passing tests.

    NAME consists of lowercase letters, digits and hyphens, such as first-word. The distribution is
    called tunesmith-NAME. The names of tunesmith's own distributions, such as tunesmith-data, are
    reserved: add your own prefix, as in acme-data.
    """
    if kind == "command":
        _refuse_taken(ctx, name)
    if as_file:
        path = write_file(out or Path(f"{name}.py"), name, kind)
        render.print_text(str(path))
        render.print_note(f"test it: tunesmith --plugin {path} plugins check {path.stem}")
        return
    folder = out or Path(f"tunesmith-{name}")
    for path in write_plugin(folder, name, kind):
        render.print_text(str(path))
    render.print_note(f"install and test it: cd {folder} && pip install -e '.[dev]' && pytest")


def _refuse_taken(ctx: click.Context, name: str) -> None:
    """Raise a UsageError if a command or a group of commands already has this name."""
    used = {known.partition(" ")[0] for known in find_commands(ctx)[0]}
    if name in used | {"plugins"}:
        raise UsageError(f"{name}: this command already exists; choose another name")

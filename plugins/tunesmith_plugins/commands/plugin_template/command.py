"""``tunesmith plugins new``: create a plugin project."""

from __future__ import annotations

from pathlib import Path

import click

from tunesmith.cli import render
from tunesmith.cli.common import common_options
from tunesmith_plugins.commands.plugin_template.write_plugin import write_plugin


@click.command("new")
@click.argument("name")
@click.option("--kind", required=True, help="Kind of component: evaluator, data-loader, reporter.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder; default: tunesmith-NAME.")
@common_options
def command(name: str, kind: str, out: Path | None) -> None:
    """Create a plugin project with a working component and a contract test."""
    folder = out or Path(f"tunesmith-{name}")
    for path in write_plugin(folder, name, kind):
        render.print_text(str(path))
    render.print_note(
        f"install and test it: pip install -e {folder} && tunesmith plugins check {name}"
    )

"""``tunesmith schema``: print the JSON Schema of run files, for editors."""

from __future__ import annotations

import click

from tunesmith_cli import render
from tunesmith_cli.common import CliState, common_options, pass_state


@click.command("schema")
@common_options
@pass_state
def command(state: CliState) -> None:
    """Print the JSON Schema of run files, with the options of the installed plugins.

    Editors use it for completion: save it as tunesmith.schema.json, and make the first line of
    the run file `#:schema ./tunesmith.schema.json`.
    """
    from tunesmith_plugins.commands.schema.json_schema import run_file_schema

    render.print_json(run_file_schema(state.catalog()))

"""``tunesmith schema``: what a run file may hold, for editors."""

from __future__ import annotations

import click

from tunesmith.cli import render
from tunesmith.cli.common import State, common_options, pass_state


@click.command("schema")
@common_options
@pass_state
def command(state: State) -> None:
    """Print the JSON Schema of run files for the plugins that are installed here.

    Save it, and name it in the first line of a run file: `#:schema ./tunesmith.config.json_schema.json`.
    """
    from tunesmith.config.json_schema import run_file_schema

    render.data(run_file_schema(state.catalog()))

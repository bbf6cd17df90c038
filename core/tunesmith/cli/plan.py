"""``tunesmith plan``: what would happen, in full."""

from __future__ import annotations

from pathlib import Path

import click

from tunesmith import api
from tunesmith.cli import render
from tunesmith.cli.common import State, common_options, json_option, pass_state, set_option


@click.command("plan")
@click.argument("run_file", metavar="RUN.toml", type=click.Path(path_type=Path))
@set_option
@json_option
@common_options
@pass_state
def command(state: State, run_file: Path, sets: tuple[str, ...], as_json: bool) -> None:
    """Print the resolved plan: every option with its value, paths made absolute.

    It is itself a run file: `tunesmith plan run.toml > resolved.toml`.
    """
    plan, _ = api.load(run_file, sets=sets, files=state.files, disabled=state.disabled)
    if as_json:
        render.data({"schema": "tunesmith.plan/1", **plan.to_json()})
    else:
        render.say(plan.to_toml().rstrip("\n"))

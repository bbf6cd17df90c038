"""``tunesmith resume``: the same path again, without what is done."""

from __future__ import annotations

from pathlib import Path

import click

from tunesmith import api, distributed
from tunesmith.cli.common import State, common_options, json_option, pass_state
from tunesmith.cli.run import explained, heard, show


@click.command("resume")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--accept-drift",
    is_flag=True,
    help="Go on although data, options, base model or plugins changed.",
)
@json_option
@common_options
@pass_state
def command(state: State, run: Path, accept_drift: bool, as_json: bool) -> None:
    """Continue a run that was stopped, killed or failed.

    It takes the same path as before, skips what is done, and goes on from the newest checkpoint
    that is intact.
    """
    if distributed.number() > 0:
        api.attend(files=state.files, disabled=state.disabled)
        return
    folder, plan, catalog = api.reopen(run, files=state.files, disabled=state.disabled)
    with explained(folder, as_json):
        report = api.go_on(folder, heard(plan, state), catalog, accept_drift=accept_drift)
    show(report, folder, as_json)

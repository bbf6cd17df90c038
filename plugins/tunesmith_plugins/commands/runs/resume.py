"""``tunesmith resume``: continue a run from its newest intact checkpoint."""

from __future__ import annotations

from pathlib import Path

import click

from tunesmith import api, distributed
from tunesmith_cli.common import CliState, result_options, trust_option
from tunesmith_plugins.commands.runs.run import show, show_failed_run


@click.command("resume")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--accept-changes",
    is_flag=True,
    help="Continue even if data, options, base model or plugins have changed.",
)
@click.option("--force", is_flag=True, help="Start even if the predicted memory does not fit.")
@trust_option
@result_options
def command(state: CliState, run: Path, accept_changes: bool, force: bool, as_json: bool) -> None:
    """Continue a run that was stopped, killed or failed.

    RUN is the run folder. Finished phases are skipped, and training continues from the newest
    intact checkpoint.
    """
    if distributed.rank() > 0:
        api.run_worker_rank(files=state.files, disabled=state.disabled)
        return
    folder, plan, catalog = api.load_run(run, files=state.files, disabled=state.disabled)
    state.run_folder = folder.path
    with show_failed_run(plan, folder, as_json):
        report = api.continue_run(
            folder, state.apply_quiet(plan), catalog, accept_changes=accept_changes, force=force
        )
    show(report, plan, folder, as_json)

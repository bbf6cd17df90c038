"""``tunesmith verdict``: judge whether fine-tuning an existing model was worth it."""

from __future__ import annotations

from pathlib import Path

import click

from tunesmith import api
from tunesmith.execution import execute
from tunesmith_cli.common import CliState, start_options
from tunesmith_evidence.existing import make_existing_run
from tunesmith_plugins.commands.runs.run import show, show_failed_run

FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command("verdict")
@click.option("--base", required=True, metavar="MODEL", help="The model before fine-tuning.")
@click.option(
    "--tuned", required=True, metavar="MODEL",
    help="The fine-tuned model: an adapter or model folder, a GGUF file, or an endpoint.",
)  # fmt: skip
@click.option(
    "--train", required=True, type=FILE, help="File of the rows that it was fine-tuned on."
)
@click.option("--test", required=True, type=FILE, help="File of test rows, not used in training.")
@click.option("--model", default="", metavar="NAME", help="Name of the model at the endpoint.")
@click.option(
    "--token-variable", metavar="NAME",
    help="Environment variable with the endpoint's API token.",
)  # fmt: skip
@start_options
def command(  # noqa: PLR0913 - one parameter for each option of the command line
    state: CliState,
    base: str,
    tuned: str,
    train: Path,
    test: Path,
    model: str,
    token_variable: str | None,
    sets: tuple[str, ...],
    out: Path | None,
    as_json: bool,
) -> None:
    """Judge a model that was fine-tuned elsewhere, without training.

    Checks the data for leaks, measures the baselines that a run measures, and compares the base
    model with the fine-tuned one on the test rows and outside the task. The result is a run folder
    with a verdict and a report, like that of `tunesmith run`.
    """
    tables = make_existing_run(base, tuned, train, test, model, token_variable)
    plan, catalog = api.load_plan(tables, sets=sets, files=state.files, disabled=state.disabled)
    api.require_runnable(plan)
    folder = api.create_run_folder(plan, out)
    state.run_folder = folder.path
    with show_failed_run(plan, folder, as_json):
        report = execute.run(state.apply_quiet(plan), catalog, folder)
    show(report, plan, folder, as_json)

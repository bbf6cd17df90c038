"""``tunesmith run``: train a model, and evaluate it before and after."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from tunesmith import api, distributed
from tunesmith.errors import RunStopped, TunesmithError, UsageError
from tunesmith.execution import execute
from tunesmith.execution.report import Report
from tunesmith.plan import Plan
from tunesmith.signals import print_if_killed
from tunesmith.storage import RunFolder
from tunesmith.text import format_count, safe_text
from tunesmith_cli import render
from tunesmith_cli.common import CliState, start_options
from tunesmith_evidence.report.model_card import write_model_card
from tunesmith_evidence.report.view import ReportView
from tunesmith_plugins.commands.runs import show_report
from tunesmith_plugins.commands.runs.ignore_signals import ignore_stop_signals_after_error


@click.command("run")
@click.argument("run_file", metavar="RUN.toml", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Start even if the predicted memory does not fit.")
@click.option(
    "--strict",
    is_flag=True,
    help="Exit with code 6 on a warning before training, or any verdict but FINE-TUNE.",
)
@start_options
def command(  # noqa: PLR0913 - one parameter for each option of the command line
    state: CliState,
    run_file: Path,
    sets: tuple[str, ...],
    out: Path | None,
    force: bool,
    strict: bool,
    as_json: bool,
) -> None:
    """Train a model, and evaluate it on test rows before and after.

    Scores, verdict and paths are printed on stdout, progress on stderr. The run folder receives the
    model, all scores and report.json. Ctrl-C stops after the current step; continue with `tunesmith
    resume`.
    """
    if distributed.rank() > 0:
        api.run_worker_rank(files=state.files, disabled=state.disabled)
        return
    sets = (*sets, "gate.strict=true") if strict else sets
    plan, catalog = api.load_plan(run_file, sets=sets, files=state.files, disabled=state.disabled)
    api.require_runnable(plan)
    folder = api.create_run_folder(plan, out)
    state.run_folder = folder.path
    with show_failed_run(plan, folder, as_json):
        report = execute.run(state.apply_quiet(plan), catalog, folder, force=force)
    show(report, plan, folder, as_json)


@contextmanager
def show_failed_run(plan: Plan, folder: RunFolder, as_json: bool) -> Iterator[None]:
    """Print the results so far, and how to resume, if the run fails in the block."""
    resume = f"continue with: tunesmith resume {render.shell_path(folder.path)}"
    with ignore_stop_signals_after_error(), print_if_killed(safe_text(resume)):
        try:
            yield
        except TunesmithError as error:
            if isinstance(error, RunStopped):
                error.hint = f"{describe_saved(execute.load_report(folder))}; {resume}"
            if not isinstance(error, UsageError):
                show(execute.load_report(folder), plan, folder, as_json)
            raise


def describe_saved(report: Report) -> str:
    """Return the progress that resuming keeps, as text such as "saved at step 59 of 300"."""
    running = [stage for stage in report.training_started if stage not in report.training_finished]
    checkpoint = report.last_checkpoint
    for stage in running:
        if checkpoint is not None and checkpoint.path.startswith(f"{stage}/" if stage else ""):
            steps = f"step {checkpoint.step} of {report.training_started[stage].steps}"
            return f"saved at {steps}{f' of {stage}' if stage else ''}"
    if report.training_finished:
        is_over = "" in report.training_finished
        return f"saved: {'the trained model' if is_over else ', '.join(report.training_finished)}"
    measured = {event.model for event in report.measured.values()}
    return (
        f"saved: {format_count(len(measured), 'baseline')}" if measured else "nothing to save yet"
    )


def show(report: Report, plan: Plan, folder: RunFolder, as_json: bool) -> None:
    """Write the model card, and print the result of a run as a few lines or as JSON."""
    view = ReportView(report, folder.path)
    write_model_card(view, plan)
    if as_json:
        render.print_json(show_report.to_json(view))
        return
    show_report.show_end(view)
    show_report.show_paths(view)
    show_report.show_next_commands(view)

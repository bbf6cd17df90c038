"""``tunesmith baselines``: measure all baselines of a run file without training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from tunesmith import api, distributed
from tunesmith.errors import UsageError
from tunesmith.events import Measured
from tunesmith.execution.report import Report
from tunesmith.storage import RunFolder
from tunesmith.text import format_duration, one_line
from tunesmith_cli import render
from tunesmith_cli.common import CliState, start_options
from tunesmith_evidence.baselines import (
    MeasuredBaseline,
    list_baseline_overrides,
    list_baselines,
    measure_baselines,
)
from tunesmith_evidence.number_text import format_interval, format_number, format_rows


@click.command("baselines")
@click.argument("run_file", metavar="RUN.toml", type=click.Path(path_type=Path))
@click.option(
    "--rows",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Test rows for baselines that prompt the base model; 0 for all.",
)
@click.option(
    "--budget",
    metavar="TIME",
    help=("Time limit for choosing prompt variants, such as 90s, 3m or 2h. Default: none."),
)
@click.option(
    "--only", multiple=True, metavar="BASELINE", help="Measure only this baseline. Repeatable."
)
@start_options
def command(  # noqa: PLR0913 - one parameter for each option of the command line
    state: CliState,
    run_file: Path,
    sets: tuple[str, ...],
    out: Path | None,
    rows: int,
    budget: str | None,
    only: tuple[str, ...],
    as_json: bool,
) -> None:
    """Measure the baselines, which are prompts and classifiers without fine-tuning.

    The best variant of each baseline is selected on the validation rows and scored once on the test
    rows. Afterwards, `tunesmith resume` trains in the same run folder and compares the tuned model
    with these baselines, without measuring them again.
    """
    if distributed.world_size() > 1:
        raise UsageError(
            "baselines: this command runs only in a single process",
            hint="start the command without torchrun",
        )
    overrides = [*sets, *list_baseline_overrides(rows, budget, only)]
    plan, catalog = api.load_plan(
        run_file, sets=overrides, files=state.files, disabled=state.disabled
    )
    api.require_runnable(plan)
    folder = api.create_run_folder(plan, out)
    plan = state.apply_quiet(plan)
    show(measure_baselines(plan, catalog, folder), folder, as_json)


def show(report: Report, folder: RunFolder, as_json: bool) -> None:
    """Print the baselines on stdout, as a table or as JSON."""
    baselines = list_baselines(report)
    if as_json:
        render.print_json(to_json(baselines, folder))
        return
    if not baselines:
        render.print_text("no baseline fits the training rows and evaluators of this run")
    else:
        show_baselines(baselines)
    run = render.shell_path(folder.path)
    render.print_text()
    render.print_text(f"run folder: {folder.path}")
    render.print_note(f"\nTo train and compare with these baselines:\n  tunesmith resume {run}")


def show_baselines(baselines: Sequence[MeasuredBaseline]) -> None:
    """Print the table of baselines, then the skipped baselines with the reasons."""
    first = _find_measured(baselines)
    render.print_text()
    if first is not None:
        better = "higher" if first.higher_is_better else "lower"
        render.print_text(f"{one_line(first.metric)}, {better} is better")
    measured = [baseline for baseline in baselines if baseline.measured is not None]
    render.print_table(
        ["baseline", "variant", "validation", "test", "95 % interval", "n", "seconds"],
        [_to_row(baseline) for baseline in measured],
        right=(2, 3, 4, 5, 6),
    )
    for baseline in baselines:
        if baseline.measured is None:
            reason = one_line(baseline.chosen.skipped or "not measured", 200)
            render.print_text(f"skipped: {baseline.chosen.baseline}: {reason}", style="warning")


def to_json(baselines: Sequence[MeasuredBaseline], folder: RunFolder) -> dict[str, Any]:
    """Return the measured and the skipped baselines as JSON."""
    first = _find_measured(baselines)
    return {
        "schema": "tunesmith.baselines/1",
        "metric": first.metric if first else "",
        "evaluator": first.evaluator if first else "",
        "higher_is_better": first.higher_is_better if first else True,
        "baselines": [baseline.to_json() for baseline in baselines],
        "folder": str(folder.path),
    }


def _find_measured(baselines: Sequence[MeasuredBaseline]) -> Measured | None:
    """Return the first measurement, whose metric decides, or None if all were skipped."""
    return next(
        (baseline.measured for baseline in baselines if baseline.measured is not None), None
    )


def _to_row(baseline: MeasuredBaseline) -> list[str]:
    measured, validation = baseline.measured, baseline.chosen.validation_score
    assert measured is not None
    return [
        baseline.chosen.baseline,
        one_line(baseline.chosen.variant),
        "" if validation is None else format_number(validation),
        format_number(measured.value),
        format_interval(measured.low, measured.high),
        format_rows(measured.n, measured.units),
        format_duration(baseline.seconds),
    ]

"""``tunesmith ladder``: measure all rivals of a run file at leisure, without training."""

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
from tunesmith.text import one_line
from tunesmith_cli import render
from tunesmith_cli.common import (
    CliState,
    common_options,
    json_option,
    pass_state,
    set_option,
    trust_option,
)
from tunesmith_evidence.formats import (
    format_duration,
    format_interval,
    format_number,
    format_rows,
)
from tunesmith_evidence.ladder import Rung, list_overrides, list_rungs, measure_ladder


@click.command("ladder")
@click.argument("run_file", metavar="RUN.toml", type=click.Path(path_type=Path))
@set_option
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Run folder to create; default: a new folder below [run] folder.",
)
@click.option(
    "--rows",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Held-out rows for the rivals that ask the base model; 0: all.",
)
@click.option("--budget", metavar="TIME", help="Time for these rivals: 90s, 3m, 2h. Default: any.")
@click.option("--only", multiple=True, metavar="RIVAL", help="Measure this rival. Repeatable.")
@trust_option
@json_option
@common_options
@pass_state
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
    """Measure what solves the task without training: prompts and classifiers.

    The best variant of each is chosen on the dev rows and scored once on the held-out rows, all of
    them by default. `tunesmith resume` then trains in the same run folder, and compares the tuned
    model with these rivals without measuring them again.
    """
    if distributed.world_size() > 1:
        raise UsageError("ladder: nothing is trained", hint="start it without torchrun")
    overrides = [*sets, *list_overrides(rows, budget, only)]
    plan, catalog = api.load_plan(
        run_file, sets=overrides, files=state.files, disabled=state.disabled
    )
    api.refuse_unrunnable(plan)
    folder = api.create_run_folder(plan, out)
    plan = state.apply_quiet(plan)
    show(measure_ladder(plan, catalog, folder), folder, as_json)


def show(report: Report, folder: RunFolder, as_json: bool) -> None:
    """Print the rungs on stdout, as a table or as JSON."""
    rungs = list_rungs(report)
    if as_json:
        render.print_json(to_json(rungs, folder))
        return
    if not rungs:
        render.print_text("no rival suits the training rows and the evaluators of the run")
    else:
        show_rungs(rungs)
    run = render.shell_path(folder.path)
    render.print_text()
    render.print_text(f"run folder: {folder.path}")
    render.print_note(f"\ntrain, and compare with these rivals:\n  tunesmith resume {run}")


def show_rungs(rungs: Sequence[Rung]) -> None:
    """Print the table of rungs, and what was skipped."""
    first = _find_measured(rungs)
    render.print_text()
    if first is not None:
        better = "higher" if first.higher_is_better else "lower"
        render.print_text(f"{one_line(first.metric)}, {better} is better")
    measured = [rung for rung in rungs if rung.measured is not None]
    render.print_table(
        ["rival", "variant", "dev", "held-out", "95 % interval", "n", "seconds"],
        [_to_row(rung) for rung in measured],
        right=(2, 3, 4, 5, 6),
    )
    for rung in rungs:
        if rung.measured is None:
            reason = one_line(rung.chosen.skipped or "it was not measured", 200)
            render.print_text(f"skipped: {rung.chosen.rival}: {reason}", style="warning")


def to_json(rungs: Sequence[Rung], folder: RunFolder) -> dict[str, Any]:
    """Return the ladder as JSON."""
    first = _find_measured(rungs)
    return {
        "schema": "tunesmith.ladder/1",
        "metric": first.metric if first else "",
        "evaluator": first.evaluator if first else "",
        "higher_is_better": first.higher_is_better if first else True,
        "rungs": [rung.to_json() for rung in rungs],
        "folder": str(folder.path),
    }


def _find_measured(rungs: Sequence[Rung]) -> Measured | None:
    """Return a measurement of the metric that decides; one that was skipped has no metric."""
    return next((rung.measured for rung in rungs if rung.measured is not None), None)


def _to_row(rung: Rung) -> list[str]:
    measured, dev = rung.measured, rung.chosen.dev_score
    assert measured is not None
    return [
        rung.chosen.rival,
        one_line(rung.chosen.variant),
        "" if dev is None else format_number(dev),
        format_number(measured.value),
        format_interval(measured.low, measured.high),
        format_rows(measured.n, measured.units),
        format_duration(rung.seconds),
    ]

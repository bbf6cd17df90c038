"""The ``seeds`` command: check whether a small difference comes from training or from the seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from tunesmith import api, distributed
from tunesmith.catalog import Catalog
from tunesmith.errors import UsageError
from tunesmith.events import Measured
from tunesmith.execution import execute
from tunesmith.execution.execute import load_report
from tunesmith.execution.report import Report
from tunesmith.execution.resume_checks import check_data, check_options
from tunesmith.execution.run_data import DataParts, build_data_event, load_data
from tunesmith.plan import Plan
from tunesmith.storage import RunFolder
from tunesmith.text import one_line, redact_all
from tunesmith_cli import render
from tunesmith_cli.common import CliState, result_options, trust_option
from tunesmith_evidence.number_text import (
    format_difference,
    format_estimate,
    format_number,
    format_rows,
)
from tunesmith_evidence.pairs import list_metrics
from tunesmith_evidence.pilots import plan_pilot
from tunesmith_plugins.commands.seeds.pool import (
    PooledSeeds,
    SeedRun,
    change_seed,
    pool_seeds,
)


@click.command("seeds")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--count",
    type=click.IntRange(2, 20),
    default=3,
    show_default=True,
    help="Number of seeds, including the run's own.",
)
@trust_option
@result_options
def command(state: CliState, run: Path, count: int, as_json: bool) -> None:
    """Repeat a finished run with other seeds, and pool their differences from the baseline.

    The data and its split stay the same. Baselines are not measured again. The new runs are stored
    next to the first one, in folders whose names end in the seed; finished ones are not repeated.
    """
    if distributed.world_size() > 1:
        raise UsageError(
            "seeds: this command runs only in a single process",
            hint="start the command without torchrun",
        )
    folder, plan, catalog = api.load_run(run, files=state.files, disabled=state.disabled)
    report = load_report(folder)
    baseline = _find_baseline(report, folder)
    plan = state.apply_quiet(plan)
    _, parts = load_data(plan)
    if report.data is None or report.data.fingerprint != parts.fingerprint:
        raise UsageError(
            f"{folder.path}: the data has changed since this run",
            hint="restore the data, or start a new run",
        )
    seeds = [plan.run.seed + number for number in range(count)]
    runs = [SeedRun(seeds[0], folder.path, report.tuned[0])]
    runs += [_run_seed(plan, catalog, parts, seed, folder.path) for seed in seeds[1:]]
    pooled = pool_seeds(runs, baseline, folder.path, 0.95, list_metrics(catalog))
    if as_json:
        render.print_json(to_json(runs, baseline, pooled))
    else:
        show(runs, baseline, pooled)


def _find_baseline(report: Report, folder: RunFolder) -> Measured:
    """Return the scores of the baseline that the verdict compares with.

    Raises:
        UsageError: the run has no verdict with a baseline.
    """
    verdict = report.verdict
    key = (verdict.get("baseline"), verdict.get("evaluator"), verdict.get("metric"))
    found = next((e for k, e in report.measured.items() if k == key), None)
    if found is None or not report.tuned:
        raise UsageError(
            f"{folder.path}: the run has no verdict that compares with a baseline",
            hint=f"finish the run: tunesmith resume {folder.path}",
        )
    return found


def _run_seed(plan: Plan, catalog: Catalog, parts: DataParts, seed: int, first: Path) -> SeedRun:
    """Train with another seed, unless its run folder already exists.

    Raises:
        UsageError: the earlier run is unfinished, or used different data or options.
    """
    path = first.with_name(f"{first.name}-seed-{seed}")
    planned = change_seed(plan_pilot(plan, parts, len(parts.train)), seed)
    if path.is_dir():
        report = load_report(RunFolder.open(path))
    else:
        report = execute.run(planned, catalog, api.create_run_folder(plan, path))
    if not report.tuned:
        raise UsageError(f"{path}: this run is unfinished", hint="delete the folder and try again")
    changes = _find_changes(report, planned)
    if changes:
        raise UsageError(
            f"{path}: more than the seed of this run differs: {'; '.join(changes)}",
            hint="move or delete the folder to train this seed again",
        )
    return SeedRun(seed, path, report.tuned[0])


def _find_changes(report: Report, planned: Plan) -> list[str]:
    """Return the differences in options and data between a run and the plan."""
    assert report.started is not None and report.data is not None
    started = replace(report.started, plan=redact_all(planned.to_json()))
    loaded = build_data_event(*load_data(planned))
    return [*check_options(report.started, started), *check_data(report.data, loaded)]


def to_json(runs: Sequence[SeedRun], baseline: Measured, pooled: PooledSeeds) -> dict[str, Any]:
    """Return the runs and their pooled difference as JSON."""
    interval = pooled.pooled
    return {
        "schema": "tunesmith.seeds/1",
        "metric": baseline.metric,
        "baseline": baseline.model,
        "seeds": [
            {
                "seed": run.seed,
                "value": run.tuned.value,
                "difference": difference,
                "folder": str(run.folder),
            }
            for run, difference in zip(runs, pooled.by_seed, strict=True)
        ],
        "difference": interval.value,
        "low": interval.low,
        "high": interval.high,
        "n": interval.n,
        "spread": pooled.spread,
        "outcome": pooled.outcome,
    }


def show(runs: Sequence[SeedRun], baseline: Measured, pooled: PooledSeeds) -> None:
    """Print a line per seed, then the pooled difference."""
    name = one_line(baseline.model, 40)
    render.print_table(
        ["seed", one_line(baseline.metric, 40), f"minus {name}"],
        [
            [str(run.seed), format_number(run.tuned.value), format_difference(difference)]
            for run, difference in zip(runs, pooled.by_seed, strict=True)
        ],
        right=(0, 1, 2),
    )
    interval = pooled.pooled
    difference = format_estimate(interval.value, interval.low, interval.high, signed=True)
    rows = format_rows(interval.n, interval.units, "test row")
    render.print_text()
    render.print_paragraph(
        f"{pooled.outcome}: over {len(runs)} seeds, the tuned model's mean difference from {name} "
        f"is {difference} on {rows}; standard deviation between seeds "
        f"{format_number(pooled.spread)}"
    )

"""``tunesmith advise``: measure baselines and pilots, extrapolate, and weigh the costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from tunesmith import api, distributed
from tunesmith.catalog import Catalog
from tunesmith.errors import UsageError
from tunesmith.events import Measured
from tunesmith.execution.run_data import DataParts, load_data
from tunesmith.plan import Plan
from tunesmith.storage import RunFolder
from tunesmith.text import format_duration
from tunesmith_cli import render
from tunesmith_cli.common import CliState, start_options
from tunesmith_evidence.baselines import (
    MeasuredBaseline,
    list_baseline_overrides,
    list_baselines,
    measure_baselines,
)
from tunesmith_evidence.number_text import format_interval, format_number
from tunesmith_evidence.pilots import read_values, run_pilot
from tunesmith_plugins.commands.advise import advice
from tunesmith_plugins.commands.advise.learning_curve import Extrapolation
from tunesmith_plugins.commands.advise.offer import AdviseOptions
from tunesmith_plugins.commands.advise.tokens import count_request_tokens

PILOT_PERCENTS = (10, 20, 40)
"""Percentages of the training rows that the pilots train on."""
MIN_ROWS = 8
"""Pilots that would have fewer rows are skipped."""
MARGIN = 0.02
"""Default margin if no verdict is installed."""


@click.command("advise")
@click.argument("run_file", metavar="RUN.toml", type=click.Path(path_type=Path))
@click.option(
    "--margin",
    type=click.FloatRange(0, min_open=True),
    help=(
        "Smallest advantage over a baseline that makes tuning worth it. Default: [verdict] margin."
    ),
)
@start_options
def command(
    state: CliState,
    run_file: Path,
    sets: tuple[str, ...],
    out: Path | None,
    margin: float | None,
    as_json: bool,
) -> None:
    """Predict whether fine-tuning is worth it, from baselines and three short training runs.

    Measures the baselines, then trains on 10, 20 and 40 % of the rows. The three scores are
    extrapolated to all training rows and compared with each baseline on the test rows. The costs
    depend on [advise] in the run file, which describes how the model will be used.
    """
    if distributed.world_size() > 1:
        raise UsageError(
            "advise: this command runs only in a single process",
            hint="start the command without torchrun",
        )
    overrides = [*sets, *list_baseline_overrides(0, None, [])[:2]]
    plan, catalog = api.load_plan(
        run_file, sets=overrides, files=state.files, disabled=state.disabled
    )
    api.require_runnable(plan)
    named = None if out is None else api.create_run_folder(plan, out)
    plan = state.apply_quiet(plan)
    root = named or RunFolder.create(Path(plan.run.folder), f"{plan.name}-advice")
    found = advise(plan, catalog, root.path, margin or find_margin(plan))
    if as_json:
        render.print_json(found)
    else:
        show(found)


def find_margin(plan: Plan) -> float:
    """Return the margin in the ``[verdict]`` table, or 0.02 if no verdict plugin is installed."""
    tables = (table.config for table in plan.tables if table.offer.name == "verdict")
    return float(getattr(next(tables, None), "margin", MARGIN))


def advise(plan: Plan, catalog: Catalog, root: Path, margin: float) -> dict[str, Any]:
    """Return the advice as JSON. Every measurement creates a run folder in ``root``.

    1. Measure the baselines.
    2. Train pilots on 10, 20 and 40 % of the training rows.
    3. Extrapolate the pilots' scores to all training rows.
    4. Compare each baseline with the extrapolated score.
    5. Decide the advice.
    6. Compute the costs, and the arguments that follow from them.
    """
    baseline_run = api.create_run_folder(plan, root / "baselines")
    report = measure_baselines(plan, catalog, baseline_run)
    baselines = list_baselines(report)
    _, parts = load_data(plan)
    pilots = run_pilots(plan, catalog, parts, root)
    trivial = find_trivial(baselines, pilots[0].measured)
    expected = advice.extrapolate_pilots(pilots, len(parts.train), trivial)
    differences = compare_baselines(baselines, baseline_run, expected, pilots[-1])
    compared = {difference.baseline.chosen.baseline for difference in differences}
    missing = advice.list_missing(report.baselines.values(), compared)
    word, sentence = advice.decide_advice(differences, margin, not expected.reason, missing)
    return {
        "schema": "tunesmith.advice/1",
        "word": word,
        "sentence": sentence,
        "metric": pilots[0].measured.metric,
        "baselines": [baseline.to_json() for baseline in baselines if baseline.measured],
        "pilots": [
            {"rows": p.rows, "value": p.measured.value, "low": p.measured.low,
             "high": p.measured.high, "training_seconds": p.training_seconds}
            for p in pilots
        ],
        "expected": _expected_to_json(pilots[0].measured, expected),
        **measure_costs(plan, parts, baseline_run, differences, pilots),
        "folder": str(root),
    }  # fmt: skip


def run_pilots(plan: Plan, catalog: Catalog, parts: DataParts, root: Path) -> list[advice.Pilot]:
    """Train and evaluate a pilot for each share of the training rows, the smallest first.

    Raises:
        UsageError: even the largest pilot would have fewer than 8 rows.
    """
    total = len(parts.train)
    pilots = []
    for share in PILOT_PERCENTS:
        rows = total * share // 100
        if rows >= MIN_ROWS:
            folder = api.create_run_folder(plan, root / f"pilot-{share}")
            report = run_pilot(plan, catalog, parts, rows, folder)
            measured = report.tuned[0]
            values = read_values(folder.path, measured)
            pilots.append(advice.Pilot(rows, measured, values, report.training_seconds))
    if not pilots:
        raise UsageError(
            f"too few training rows for pilots: {total}",
            hint="train without advice: tunesmith run",
        )
    return pilots


def find_trivial(baselines: Sequence[MeasuredBaseline], pilot: Measured) -> Measured | None:
    """Return the best score of a constant baseline by the pilots' metric.

    The result is None if no constant baseline was measured.
    """
    sign = 1 if pilot.higher_is_better else -1
    scores = (b.measured for b in baselines if b.chosen.solution == "constant")
    comparable = (score for score in scores if score and score.metric == pilot.metric)
    return max(comparable, key=lambda score: sign * score.value, default=None)


def compare_baselines(
    baselines: Sequence[MeasuredBaseline],
    baseline_run: RunFolder,
    expected: Extrapolation,
    largest: advice.Pilot,
) -> list[advice.ExpectedDifference]:
    """Compare tuning with each baseline that has the same metric and the same test rows."""
    differences = []
    for baseline in baselines:
        if baseline.measured and baseline.measured.metric == largest.measured.metric:
            values = read_values(baseline_run.path, baseline.measured)
            difference = advice.compare_with_baseline(baseline, values, expected, largest)
            if difference is not None:
                differences.append(difference)
    return differences


def measure_costs(
    plan: Plan,
    parts: DataParts,
    baseline_run: RunFolder,
    differences: Sequence[advice.ExpectedDifference],
    pilots: Sequence[advice.Pilot],
) -> dict[str, Any]:
    """Return costs, prompt tokens and arguments as JSON, compared with the strongest baseline.

    A constant answer is not a solution, so the costs are None if no other baseline was compared.
    """
    solutions = [d for d in differences if d.baseline.chosen.solution != "constant"]
    if not solutions:
        return {"costs": None, "prompt_tokens": None, "arguments": []}
    strongest = min(solutions, key=lambda d: d.value).baseline
    options = plan.table(AdviseOptions)
    costs = advice.compute_costs(strongest, pilots, len(parts.train), options.price_per_hour)
    tokens = count_request_tokens(baseline_run, plan, parts.train, parts.test, strongest)
    return {
        "costs": {
            **asdict(costs), "baseline": strongest.chosen.baseline, "break_even": costs.break_even,
            "baseline_per_thousand": costs.per_thousand(costs.baseline_seconds),
            "tuned_per_thousand": costs.per_thousand(costs.tuned_seconds),
        },
        "prompt_tokens": None if tokens is None else asdict(tokens),
        "arguments": [
            {"side": side, "reason": reason}
            for side, reason in advice.list_arguments(options, costs)
        ],
    }  # fmt: skip


def _expected_to_json(measured: Any, expected: Any) -> dict[str, Any]:
    if expected.reason:
        return {"rows": expected.rows, "reason": expected.reason}
    ends = sorted(advice.error_to_score(measured, error) for error in expected.interval())
    value = advice.error_to_score(measured, expected.error)
    return {"rows": expected.rows, "value": value, "low": ends[0], "high": ends[1], "reason": ""}


def show(found: dict[str, Any]) -> None:
    """Print the advice with the numbers that it is based on."""
    lines = [
        (f"{r['baseline']} {r['variant']}".strip(), r["value"], r["low"], r["high"])
        for r in found["baselines"]
    ]
    lines += [
        (f"tuned on {p['rows']:,} rows", p["value"], p["low"], p["high"]) for p in found["pilots"]
    ]
    expected = found["expected"]
    if not expected["reason"]:
        name = f"expected for {expected['rows']:,} rows"
        lines.append((name, expected["value"], expected["low"], expected["high"]))
    render.print_table(
        ["model", found["metric"], "95 % interval"],
        [[name, format_number(v), format_interval(low, high)] for name, v, low, high in lines],
        right=(1, 2),
    )
    if expected["reason"]:
        reason = f"cannot extrapolate the learning curve: {expected['reason']}"
        render.print_paragraph(reason, style="warning")
    render.print_text()
    render.print_paragraph(f"{found['word']}: {found['sentence']}")
    costs = found["costs"]
    if costs:
        seconds = costs["baseline_seconds"] * 1000, costs["tuned_seconds"] * 1000
        baseline, tuned = map(format_duration, seconds)
        text = (
            f"1,000 requests on this machine take {baseline} with {costs['baseline']} (the "
            f"strongest baseline) and {tuned} tuned; training on all rows takes about "
            f"{format_duration(costs['training_seconds'])}"
        )
        if costs["baseline_per_thousand"] is not None:
            prices = (costs["baseline_per_thousand"], costs["tuned_per_thousand"])
            baseline, tuned = map(format_number, prices)
            text += f"; at the hourly price they cost {baseline} with the baseline, {tuned} tuned"
        even = costs["break_even"]
        text += f"; break-even after {even:,} requests" if even else "; tuning saves no time"
        render.print_paragraph(text)
    tokens = found["prompt_tokens"]
    if tokens:
        baseline, tuned = f"{tokens['baseline'] * 1000:,.0f}", f"{tokens['tuned'] * 1000:,.0f}"
        render.print_paragraph(
            f"prompt tokens of 1,000 requests: {baseline} with the baseline, {tuned} tuned"
        )
    for argument in found["arguments"]:
        render.print_paragraph(f"{argument['side']}: {argument['reason']}")
    render.print_text(f"\nfolder: {found['folder']}")
    baselines = render.shell_path(Path(found["folder"]) / "baselines")
    render.print_note(f"Train on all rows with: tunesmith resume {baselines}")

"""``tunesmith advise``: baselines, trainings on few rows, learning curve and costs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from tunesmith import api, distributed
from tunesmith.catalog import Catalog
from tunesmith.errors import UsageError
from tunesmith.execution.run_data import load_data
from tunesmith.plan import Plan
from tunesmith.storage import RunFolder
from tunesmith.text import format_duration
from tunesmith_cli import render
from tunesmith_cli.common import CliState, start_options
from tunesmith_evidence.baselines import list_baselines, list_overrides, measure_baselines
from tunesmith_evidence.number_text import format_interval, format_number
from tunesmith_evidence.pilots import read_values, run_pilot
from tunesmith_plugins.commands.advise import advice
from tunesmith_plugins.commands.advise.offer import AdviseOptions
from tunesmith_plugins.commands.advise.tokens import count_request_tokens

SHARES = (10, 20, 40)
"""Percentages of the training rows that the pilots learn from."""
FEWEST_ROWS = 8
MARGIN = 0.02
"""Margin if no verdict is installed."""


@click.command("advise")
@click.argument("run_file", metavar="RUN.toml", type=click.Path(path_type=Path))
@click.option(
    "--margin",
    type=click.FloatRange(0, min_open=True),
    help="Smallest advantage over a baseline that is worth tuning; default: [verdict] margin.",
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
    """Advise whether to tune, by baselines and by trainings on 10, 20 and 40 % of the rows.

    The baselines are measured first. The scores of the three trainings are then extrapolated
    to all training rows, and compared with each baseline on all test rows. [advise] in the run file
    says how the model will be used.
    """
    if distributed.world_size() > 1:
        raise UsageError("advise: runs in one process", hint="start it without torchrun")
    overrides = [*sets, *list_overrides(0, None, [])[:2]]
    plan, catalog = api.load_plan(
        run_file, sets=overrides, files=state.files, disabled=state.disabled
    )
    api.refuse_unrunnable(plan)
    named = None if out is None else api.create_run_folder(plan, out)
    plan = state.apply_quiet(plan)
    root = named or RunFolder.create(Path(plan.run.folder), f"{plan.name}-advice")
    found = advise(plan, catalog, root.path, margin or find_margin(plan))
    if as_json:
        render.print_json(found)
    else:
        show(found)


def find_margin(plan: Plan) -> float:
    """Return the margin of the verdict, whose table belongs to another plugin; else two points."""
    tables = (table.config for table in plan.tables if table.offer.name == "verdict")
    return float(getattr(next(tables, None), "margin", MARGIN))


def advise(plan: Plan, catalog: Catalog, root: Path, margin: float) -> dict[str, Any]:
    """Measure baselines and pilots below ``root``; return the advice as JSON."""
    baseline_run = api.create_run_folder(plan, root / "baselines")
    report = measure_baselines(plan, catalog, baseline_run)
    chosen, baselines = report.baselines.values(), list_baselines(report)
    _, parts = load_data(plan)
    total = len(parts.train)
    pilots = []
    for share in SHARES:
        if total * share // 100 >= FEWEST_ROWS:
            folder = api.create_run_folder(plan, root / f"pilot-{share}")
            report = run_pilot(plan, catalog, parts, total * share // 100, folder)
            measured = report.tuned[0]
            values = read_values(folder.path, measured)
            pilots.append(
                advice.Pilot(total * share // 100, measured, values, report.training_seconds)
            )
    if not pilots:
        raise UsageError(
            f"{total} training rows are too few for pilots", hint="train: tunesmith run"
        )
    metric = pilots[0].measured.metric
    sign = 1 if pilots[0].measured.higher_is_better else -1
    trivial = max(
        (
            r.measured
            for r in baselines
            if r.chosen.solution == "constant" and r.measured and r.measured.metric == metric
        ),
        key=lambda measured: sign * measured.value,
        default=None,
    )
    expected = advice.extrapolate_pilots(pilots, total, trivial)
    found = []
    for baseline in baselines:
        if baseline.measured and baseline.measured.metric == metric:
            values = read_values(baseline_run.path, baseline.measured)
            found.append(advice.compare(baseline, values, expected, pilots[-1]))
    differences = [difference for difference in found if difference is not None]
    missing = advice.list_missing(chosen, {d.baseline.chosen.baseline for d in differences})
    word, sentence = advice.decide(differences, margin, not expected.reason, missing)
    solutions = [d for d in differences if d.baseline.chosen.solution != "constant"]
    options = plan.table(AdviseOptions)
    costs, tokens, arguments = None, None, []
    if solutions:
        strongest = min(solutions, key=lambda d: d.value).baseline
        costs = advice.compute_costs(strongest, pilots, total, options.price_per_hour)
        tokens = count_request_tokens(baseline_run, plan, parts.train, parts.test, strongest)
        arguments = advice.list_arguments(options, costs)
    first = pilots[0].measured
    return {
        "schema": "tunesmith.advice/1",
        "word": word,
        "sentence": sentence,
        "metric": first.metric,
        "baselines": [baseline.to_json() for baseline in baselines if baseline.measured],
        "pilots": [
            {"rows": p.rows, "value": p.measured.value, "low": p.measured.low,
             "high": p.measured.high, "training_seconds": p.training_seconds}
            for p in pilots
        ],
        "expected": _expected_to_json(first, expected),
        "costs": None if costs is None else {
            **asdict(costs), "baseline": strongest.chosen.baseline, "break_even": costs.break_even,
            "baseline_per_thousand": costs.per_thousand(costs.baseline_seconds),
            "tuned_per_thousand": costs.per_thousand(costs.tuned_seconds),
        },
        "prompt_tokens": None if tokens is None else asdict(tokens),
        "arguments": [{"side": side, "reason": reason} for side, reason in arguments],
        "folder": str(root),
    }  # fmt: skip


def _expected_to_json(measured: Any, expected: Any) -> dict[str, Any]:
    if expected.reason:
        return {"rows": expected.rows, "reason": expected.reason}
    ends = sorted(advice.to_score(measured, error) for error in expected.interval())
    value = advice.to_score(measured, expected.error)
    return {"rows": expected.rows, "value": value, "low": ends[0], "high": ends[1], "reason": ""}


def show(found: dict[str, Any]) -> None:
    """Print the advice."""
    lines = [
        (f"{r['baseline']} {r['variant']}".strip(), r["value"], r["low"], r["high"])
        for r in found["baselines"]
    ]
    lines += [
        (f"tuned, {p['rows']:,} rows", p["value"], p["low"], p["high"]) for p in found["pilots"]
    ]
    expected = found["expected"]
    if not expected["reason"]:
        name = f"expected, {expected['rows']:,} rows"
        lines.append((name, expected["value"], expected["low"], expected["high"]))
    render.print_table(
        ["model", found["metric"], "95 % interval"],
        [[name, format_number(v), format_interval(low, high)] for name, v, low, high in lines],
        right=(1, 2),
    )
    if expected["reason"]:
        reason = f"the learning curve cannot be extrapolated: {expected['reason']}"
        render.print_paragraph(reason, style="warning")
    render.print_text()
    render.print_paragraph(f"{found['word']}: {found['sentence']}")
    costs = found["costs"]
    if costs:
        seconds = costs["baseline_seconds"] * 1000, costs["tuned_seconds"] * 1000
        baseline, tuned = map(format_duration, seconds)
        text = (
            f"a thousand requests, on this machine: {baseline} with {costs['baseline']}, "
            "the strongest "
            f"baseline, {tuned} tuned; training on all rows takes about "
            f"{format_duration(costs['training_seconds'])}"
        )
        if costs["baseline_per_thousand"] is not None:
            prices = (costs["baseline_per_thousand"], costs["tuned_per_thousand"])
            baseline, tuned = map(format_number, prices)
            text += f"; at the price of an hour that is {baseline} with the baseline, {tuned} tuned"
        even = costs["break_even"]
        text += f"; break-even after {even:,} requests" if even else "; tuning saves no time"
        render.print_paragraph(text)
    tokens = found["prompt_tokens"]
    if tokens:
        thousand = (
            f"{tokens['baseline'] * 1000:,.0f} with the baseline, {tokens['tuned'] * 1000:,.0f}"
        )
        render.print_paragraph(f"prompt tokens of a thousand requests: {thousand} tuned")
    for argument in found["arguments"]:
        render.print_paragraph(f"{argument['side']}: {argument['reason']}")
    render.print_text(f"\nfolder: {found['folder']}")
    baselines = render.shell_path(Path(found["folder"]) / "baselines")
    render.print_note(f"to train on all rows: tunesmith resume {baselines}")

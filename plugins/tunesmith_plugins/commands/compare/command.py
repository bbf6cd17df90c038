"""``tunesmith compare``: compare the tuned models of runs row by row."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import click

from tunesmith.catalog import Catalog
from tunesmith.errors import TunesmithError, UsageError
from tunesmith.events import JSON
from tunesmith.offers import Metric
from tunesmith.storage import find_runs
from tunesmith.text import format_count, one_line
from tunesmith_cli import render
from tunesmith_cli.common import CliState, result_options
from tunesmith_evidence.comparison import (
    ChangedRow,
    MetricDifference,
    RunResults,
    adjust_differences,
    compare_metrics,
    find_comparison_obstacles,
    find_row_metric,
    list_changed_rows,
    list_plan_differences,
)
from tunesmith_evidence.improvement import OTHER_ROWS, SliceChange, compare_with_parent
from tunesmith_evidence.number_text import format_number, format_p_value, format_rows
from tunesmith_evidence.pairs import list_metrics
from tunesmith_plugins.commands.compare.difference import RunDifference
from tunesmith_plugins.commands.compare.overview import (
    STYLES,
    format_change,
    name_folders,
    outcome_cell,
    setting_text,
    show_overview,
)
from tunesmith_plugins.commands.compare.sample_logs import (
    is_sample_log,
    match_run,
    read_sample_log,
)

DETAILED_RUNS = 5
"""If more runs than this are compared with the first one, print only the tables of all runs."""


@contextmanager
def pause_garbage_collection() -> Iterator[None]:
    """Do not search for reference cycles: the rows of hundreds of runs have none."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@click.command("compare")
@click.argument("runs", metavar="RUN...", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option(
    "--page",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the comparison to FILE.html: a leaderboard and the loss curves of all runs.",
)
@click.option(
    "--shared-rows",
    is_flag=True,
    help="Compare only the rows that both runs tested, even if their test rows differ.",
)
@click.option(
    "--items",
    type=click.IntRange(0),
    default=3,
    show_default=True,
    help="Number of won and of lost rows to show.",
)
@click.option(
    "--top",
    type=click.IntRange(0),
    default=20,
    show_default=True,
    help="Number of runs to list for each metric, best first; 0 for all.",
)
@result_options
def command(  # noqa: PLR0913 - one parameter for each option of the command line
    state: CliState,
    runs: tuple[Path, ...],
    page: Path | None,
    shared_rows: bool,
    items: int,
    top: int,
    as_json: bool,
) -> None:
    """Compare the tuned models of several runs with the tuned model of the first run.

    RUN is a run folder, or a folder of runs. The runs of a folder are read in reverse alphabetical
    order, so the newest run comes first by default. Runs that cannot be compared with the
    first run are skipped. RUN may also be a sample log of lm-evaluation-harness or inspect.

    If there are several runs, a table for each metric lists the best first, and another table shows
    how their run files differ.

    Runs can only be compared if they were scored in the same way: on the same test rows, with the
    same evaluators and options. Differences are paired by row. P-values are adjusted for the number
    of comparisons (Holm).
    """
    catalog = state.catalog()
    results = read_comparable(runs, catalog, shared_rows)
    if len(results) < 2:
        raise UsageError(
            "compare: needs at least two runs that can be compared",
            hint="pass two finished runs, or a folder that contains them",
        )
    first, *others = results
    metrics = list_metrics(catalog)
    found = compare_all(first, others, metrics)
    if page is not None and any(is_sample_log(run.folder) for run in results):
        raise UsageError(
            "--page: needs runs, but one of these is a log of another program",
            hint="omit --page, or pass only runs",
        )
    if page is not None:
        write_page(page, first, found, metrics)
    if as_json:
        render.print_json(to_json(first, found))
        return
    if len(found) > 1:
        show_overview(first, found, top or len(found))
    if len(found) > DETAILED_RUNS:
        render.print_text("to see rows with different answers, compare only two runs")
        return
    joint = list_joint_metrics(metrics)
    for difference in found:
        show(first, difference, items, joint)


@pause_garbage_collection()
def read_comparable(paths: Sequence[Path], catalog: Catalog, shared_rows: bool) -> list[RunResults]:
    """Return the results of the given runs, and of the runs in given folders that can be compared.

    Raises:
        UsageError: a run in ``paths`` has no results, or cannot be compared with the first one.
    """
    found: dict[Path, RunResults] = {}
    skipped = []
    for path in paths:
        listed = () if (path / "lock").exists() else sorted(find_runs(path), reverse=True)
        for folder in listed or (path,):
            if folder.resolve() in found:
                continue
            first = next(iter(found.values()), None)
            try:
                results = read_results(folder, first)
                if first is not None:
                    refuse_incomparable(first, results, catalog, shared_rows)
            except TunesmithError as error:
                if not listed:
                    raise
                skipped.append(error.message)
            else:
                found[folder.resolve()] = results
    if skipped:
        others = f"; {len(skipped) - 1} more" if len(skipped) > 1 else ""
        render.print_note(f"skipped: {skipped[0]}{others}")
    return [*found.values()]


def write_page(
    path: Path, first: RunResults, found: Sequence[RunDifference], metrics: Mapping[str, Metric]
) -> None:
    """Write the comparison to a new HTML file.

    Raises:
        UsageError: the file is not named FILE.html, exists, or cannot be written.
    """
    # Imported here, since a comparison without a page needs no template engine.
    from tunesmith_plugins.commands.compare.page import render_page

    if path.suffix.lower() not in (".html", ".htm"):
        raise UsageError(
            f"--page {path}: the page must be an HTML file",
            hint="use a file name that ends with .html",
        )
    render.write_new_file(path, [render_page(first, found, metrics)])
    render.print_note(f"page: {path}")


def read_results(path: Path, first: RunResults | None) -> RunResults:
    """Return the results of a run, or of another program's log.

    Raises:
        UsageError: the run's tuned model has not been evaluated, the log cannot be read, or it has
            no row in common with the first run.
    """
    if is_sample_log(path):
        log = read_sample_log(path)
        return log if first is None or is_sample_log(first.folder) else match_run(log, first)
    if first is not None and is_sample_log(first.folder):
        raise UsageError(
            f"{path}: only a log can be compared with a run", hint="list the run before the log"
        )
    results = RunResults.read(path)
    if not results.measured:
        raise UsageError(
            f"{path}: the tuned model has not been evaluated",
            hint=f"finish the run: tunesmith resume {render.shell_path(path)}",
        )
    return results


def refuse_incomparable(
    first: RunResults, other: RunResults, catalog: Catalog, shared_rows: bool
) -> None:
    """Raise an error if the scores of two runs were not measured in the same way.

    Raises:
        UsageError: the runs cannot be compared; the message lists all reasons.
    """
    reasons = find_comparison_obstacles(first, other, catalog)
    if shared_rows or is_next(first, other):
        reasons = [reason for reason in reasons if not reason.startswith("the test rows")]
    if reasons:
        raise UsageError(
            f"{first.folder} and {other.folder} cannot be compared: {'; '.join(reasons)}",
            hint="run both with the same data, [split], [run] seed and [[evaluators]], or compare "
            "only the rows that both tested: --shared-rows",
        )


def is_next(first: RunResults, other: RunResults) -> bool:
    """Return True if ``tunesmith next`` created the other run from the first one."""
    parent = other.plan.get("lineage", {}).get("parent")
    return isinstance(parent, str) and Path(parent).resolve() == first.folder.resolve()


@pause_garbage_collection()
def compare_all(
    first: RunResults, others: Sequence[RunResults], metrics: Mapping[str, Metric]
) -> list[RunDifference]:
    """Compare each run with the first one, and adjust the p-values for all comparisons."""
    compared = [compare_metrics(first, other, metrics=metrics) for other in others]
    adjusted = iter(
        adjust_differences([found for by_name in compared for found in by_name.values()])
    )
    found = []
    for other, by_name in zip(others, compared, strict=True):
        differences = {name: next(adjusted) for name in by_name}
        main = next(iter(differences.values()))
        key = find_row_metric(first, other, (main.evaluator, main.metric))
        changed = list_changed_rows(first, other, key) if key else []
        options = list_plan_differences(first.plan, other.plan)
        slices: Sequence[SliceChange] = ()
        moved = 0
        if is_next(first, other):
            slices = compare_with_parent(first, other)
            befores, afters = (run.rows(main.evaluator, main.metric) for run in (first, other))
            moved = sum(key not in afters for key in befores)
        by = key[1] if key and key[1] != main.metric else ""
        found.append(RunDifference(other, differences, options, changed, slices, by, moved))
    return found


def to_json(first: RunResults, found: Sequence[RunDifference]) -> JSON:
    """Return the comparisons as JSON (schema ``tunesmith.compare/2``)."""
    return {
        "schema": "tunesmith.compare/2",
        "first": str(first.folder),
        "comparisons": [
            {
                "run": str(difference.run.folder),
                "metrics": {name: asdict(metric) for name, metric in difference.metrics.items()},
                "options": {
                    key: {"first": old, "second": new}
                    for key, (old, new) in difference.options.items()
                },
                "slices": [asdict(change) for change in difference.slices],
                "moved": difference.moved,
                "rows": [
                    {"gain": row.gain, "first": row.first, "second": row.second}
                    for row in difference.changed
                ],
            }
            for difference in found
        ],
    }


def list_joint_metrics(metrics: Mapping[str, Metric]) -> frozenset[str]:
    """Return the metrics that only have a value for all rows together, such as corpus BLEU."""
    return frozenset(name for name, metric in metrics.items() if not metric.is_row_mean)


def show(first: RunResults, difference: RunDifference, items: int, joint: frozenset[str]) -> None:
    """Print the comparison of a run with the first run."""
    names = name_folders([difference.run.folder, first.folder])
    render.print_text(" minus ".join(one_line(name, 60) for name in names), style="strong")
    render.print_table(
        ["metric", "first", "this", "difference, 95 % interval", "this is"],
        [_to_row(name, metric) for name, metric in difference.metrics.items()],
        right=(1, 2, 3),
    )
    for name, metric in difference.metrics.items():
        render.print_paragraph(
            f"{one_line(name)}: {describe_power(metric, metric.metric in joint)}"
        )
    if difference.moved:
        show_moved(difference.moved, *names)
    if difference.slices:
        show_slices(difference.slices)
    render.print_text()
    render.print_text(
        "differences between the run files:" if difference.options else "the run files are the same"
    )
    for key, (old, new) in difference.options.items():
        render.print_text(f"  {one_line(key)}: {setting_text(old)} -> {setting_text(new)}")
    by = f" by {one_line(difference.changed_by)}" if difference.changed_by else ""
    won = [row for row in difference.changed if row.gain > 0]
    lost = [row for row in difference.changed if row.gain < 0]
    for title, rows in (("won", won), ("lost", lost)):
        render.print_text()
        render.print_text(f"{format_count(len(rows), 'row')} {title}{by}")
        for row in rows[:items]:
            _show_row(row)
    render.print_text()


def show_moved(moved: int, this: str, first: str) -> None:
    """Print a warning that moving incorrect test rows to training favors the first run."""
    name, other = one_line(first, 60), one_line(this, 60)
    render.print_text(
        f"{format_count(moved, 'test row')} of {name} moved to the training rows of {other}",
        style="warning",
    )
    render.print_paragraph(
        f"If they were moved because {name} got them wrong, the differences above favor {name}: "
        "they do not count its errors on these rows. Use the slices below instead, which come "
        "from the other half of the test rows.",
        style="warning",
    )


def show_slices(changes: Sequence[SliceChange]) -> None:
    """Print the slices that changed on the half that was not used to collect rows."""
    render.print_text()
    render.print_text(
        "slices, on the half of the test rows that was not used to collect rows", style="strong"
    )
    targets = [change for change in changes if change.is_target]
    others = [
        c for c in changes if not c.is_target and (c.outcome != "unclear" or c.name == OTHER_ROWS)
    ]
    render.print_table(
        ["slice", "before", "after", "difference, 95 % interval", "n", "is"],
        [
            [
                one_line(change.name) + (" (looked weak)" if change.is_target else ""),
                format_number(change.before),
                format_number(change.after),
                format_change(change.after - change.before, change.low, change.high),
                format_rows(change.n, change.units),
                (change.outcome, STYLES.get(change.outcome, "dim")),
            ]
            for change in [*targets, *others]
        ],
        right=(1, 2, 3, 4),
    )
    if not targets:
        render.print_text("no slice looked weak, so no slice counts as improved")
    hidden = len(changes) - len(targets) - len(others)
    if hidden:
        render.print_text(f"no clear change in {format_count(hidden, 'other slice')}")


def describe_power(metric: MetricDifference, is_joint: bool) -> str:
    """Return the rows won and lost, the p-value and the smallest detectable difference as text."""
    rows = format_rows(metric.n, metric.units, "row")
    change = rows if is_joint else f"{metric.won} won, {metric.lost} lost of {rows}"
    if metric.p_value_holm is not None:
        change += f", {format_p_value(metric.p_value_holm)} (Holm)"
    if metric.detectable is None and metric.low == metric.high:
        return (
            f"{change}; all rows differ equally, so the smallest detectable difference is unknown"
        )
    if metric.detectable is None:
        return f"{change}; these are too few rows to detect any difference"
    unit = f" {metric.unit}" if metric.unit else ""
    return (
        f"{change}; these rows can detect a difference of "
        f"{format_number(metric.detectable)}{unit} or more (80 % power)"
    )


def _to_row(name: str, metric: MetricDifference) -> list[render.TableCell]:
    return [
        one_line(name),
        format_number(metric.first),
        format_number(metric.second),
        format_change(metric.difference, metric.low, metric.high),
        outcome_cell(metric),
    ]


def _show_row(row: ChangedRow) -> None:
    render.print_text(f"  {one_line(str(row.second.get('source')))}")
    prompt = last_turn(row.second)
    if prompt:
        render.print_text(f"    prompt:   {one_line(prompt, 300)}")
    render.print_text(f"    expected: {one_line(str(row.second.get('expected')), 300)}")
    for name, side in (("first", row.first), ("this", row.second)):
        if "output" in side:
            render.print_text(f"    {name + ':':<9} {one_line(str(side['output']), 300)}")


def last_turn(row: JSON) -> str:
    """Return the last turn of a row's prompt, or "" in result files of older versions."""
    prompt = row.get("prompt", "")
    return str(prompt[-1][1]) if isinstance(prompt, list) and prompt else str(prompt or "")

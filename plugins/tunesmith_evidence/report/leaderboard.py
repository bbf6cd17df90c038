"""Rank runs by a metric on shared test rows, and describe their time, memory and size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tunesmith.events import Measured
from tunesmith.execution.report import build_report
from tunesmith.offers import Metric
from tunesmith.storage import RunFolder, folder_size, read_known_events
from tunesmith.text import format_bytes, format_duration
from tunesmith_evidence.comparison import (
    MetricDifference,
    RunResults,
    adjust_differences,
    compare_metric,
)
from tunesmith_evidence.pairs import NO_METRICS
from tunesmith_evidence.report.charts import MAX_OVERLAID
from tunesmith_evidence.report.curves import Curve, build_loss_curve

__all__ = ["Place", "describe_cost_of_run", "describe_size", "rank_runs", "read_loss_plots"]


@dataclass(frozen=True)
class Place:
    """A run with its rank and score by one metric."""

    run: RunResults
    measured: Measured
    """The score of the run's tuned model."""
    difference: MetricDifference | None
    """The difference from the best run, on the rows that both tested; None for the best run, or if
    there are no such rows."""
    is_first: bool
    """True for the best run and all runs that are not clearly worse."""


def rank_runs(
    runs: Sequence[RunResults],
    key: tuple[str, str],
    metrics: Mapping[str, Metric] = NO_METRICS,
) -> list[Place]:
    """Rank the runs that were measured by an evaluator and metric, the best score first.

    Runs that are not clearly worse than the best one share its rank. Clearly worse means that the
    interval of the paired difference excludes 0, and that its p-value is below 0.05 after Holm's
    correction for all compared runs. A run that has no rows in common with the best one has no
    difference, and does not share its rank.
    """
    measured = [(run, run.measured[key]) for run in runs if key in run.measured]
    sign = -1 if measured[0][1].higher_is_better else 1
    (best, score), *others = sorted(measured, key=lambda item: sign * item[1].value)
    found = {run.folder: compare_metric(best, run, key, metrics=metrics) for run, _ in others}
    compared = {folder: difference for folder, difference in found.items() if difference}
    differences = dict(zip(compared, adjust_differences([*compared.values()]), strict=True))
    places = [Place(best, score, None, True)]
    for run, value in others:
        difference = differences.get(run.folder)
        is_worse = difference is None or (difference.is_clear and difference.outcome == "worse")
        places.append(Place(run, value, difference, not is_worse))
    return places


def describe_cost_of_run(run: RunResults) -> str:
    """Return a run's training time, total time and peak memory as text."""
    parts, peak = run.report.part_seconds, run.report.peak_memory
    training, total = parts.get("training", 0.0), sum(parts.values())
    texts = [
        f"training {format_duration(training)}" if training else "",
        f"all {format_duration(total)}" if total > training else "",
        format_bytes(peak) if peak else "",
    ]
    return ", ".join(filter(None, texts))


def describe_size(run: RunResults) -> str:
    """Return the format and the size on disk of the trained model as text, or "" without one."""
    finished = run.report.training_finished.get("")
    if finished is None:
        return ""
    size = folder_size(run.folder / finished.artifact)
    return f"{finished.format} {format_bytes(size)}" if size else finished.format


def read_loss_plots(runs: Mapping[str, RunResults]) -> list[tuple[str, dict[str, Curve]]]:
    """Read the losses of the first runs, and group them into one plot per stage and unit.

    Returns:
        The stage and the curves by the run's name, for each plot.
    """
    plots: dict[tuple[str, str], dict[str, Curve]] = {}
    for name, run in [*runs.items()][:MAX_OVERLAID]:
        report = build_report(read_known_events(RunFolder(run.folder).events))
        for stage in report.training_started:
            curve = build_loss_curve(report, stage)
            if curve.points:
                plots.setdefault((stage, curve.axis), {})[name] = curve
    return [(stage, curves) for (stage, _), curves in plots.items()]

"""Compare runs row by row: check that they are comparable, and measure how much they differ."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import ValidationError

from tunesmith.catalog import Catalog, OfferNotFoundError
from tunesmith.errors import PluginError, UsageError
from tunesmith.events import JSON, Measured, RunStarted
from tunesmith.execution.evaluate import read_rows
from tunesmith.execution.report import Report, build_report
from tunesmith.offers import EvaluatorOffer, Metric
from tunesmith.storage import RunFolder, read_known_events
from tunesmith_evidence.pairs import NO_METRICS, PairedRows, has_own_value
from tunesmith_evidence.statistics import (
    Comparison,
    ComparisonOutcome,
    adjust_p_values,
    compare,
)

__all__ = [
    "ChangedRow",
    "MetricDifference",
    "RowKey",
    "RunResults",
    "adjust_differences",
    "compare_metric",
    "compare_metrics",
    "find_comparison_obstacles",
    "find_row_metric",
    "list_changed_rows",
    "list_plan_differences",
]

SKIPPED_EVENTS = ("step-finished", "stepped", "phase-started", "phase-ended", "first-batch")
"""Kinds of events that comparisons do not need, although they make up most of a log."""
IGNORED_KEYS = ("run.name", "run.folder", "reporters", "plugins.files")
"""Keys of a run's plan that do not affect its results."""
RowKey: TypeAlias = tuple[str, float, int]
"""Identifies a row across runs: :func:`row_key`, weight, and a running number among equal rows."""


@dataclass(frozen=True)
class RunResults:
    """The folder and the report of a run."""

    folder: Path
    report: Report
    _rows: dict[tuple[str, str], dict[RowKey, JSON]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def read(cls, folder: Path) -> RunResults:
        """Read a run's results, but skip its training steps.

        Raises:
            UsageError: the folder does not contain a run.
            IntegrityError: the run's log is damaged.
        """
        run = RunFolder.open(folder)
        events = read_known_events(run.events, skipped=SKIPPED_EVENTS)
        return cls(run.path, build_report(events))

    @classmethod
    def of_rows(
        cls, path: Path, plan: JSON, columns: Sequence[tuple[Measured, Sequence[JSON]]]
    ) -> RunResults:
        """Return results that another program measured, with the rows of each metric."""
        started = RunStarted(
            run=path.name, name=path.name, started="", plan=plan, versions={}, plugins=[]
        )
        results = cls(path, build_report([started, *(event for event, _ in columns)]))
        for event, rows in columns:
            results._rows[event.evaluator, event.metric] = _by_content(rows, event.metric)
        return results

    @cached_property
    def measured(self) -> dict[tuple[str, str], Measured]:
        """The measurements of the tuned model, by evaluator and metric."""
        return {(event.evaluator, event.metric): event for event in self.report.tuned}

    @property
    def plan(self) -> JSON:
        """The plan that the run was started with, or an empty dict without a start event."""
        return self.report.started.plan if self.report.started else {}

    def find_version(self, evaluator: str) -> str:
        """Return the logged version of the package that provides an evaluator, or "" if unknown."""
        events = (event for (name, _), event in self.measured.items() if name == evaluator)
        return next((event.version for event in events), "")

    def rows(self, evaluator: str, metric: str) -> Mapping[RowKey, JSON]:
        """Return the tuned model's rows with their values of a metric, from a cache if possible.

        Raises:
            IntegrityError: the per-row results file is missing or damaged.
        """
        key = evaluator, metric
        if key not in self._rows:
            records = self.measured[key].records
            in_file = [each for each, event in self.measured.items() if event.records == records]
            rows = read_rows(self.folder / records, *(name for _, name in in_file))
            self._rows.update({each: _by_content(rows, each[1]) for each in in_file})
        return self._rows[key]


@dataclass(frozen=True, kw_only=True)
class MetricDifference:
    """The paired difference of two runs by one metric, second minus first, in the metric's unit."""

    evaluator: str
    metric: str
    unit: str
    higher_is_better: bool
    first: float
    """Mean score of the first run's tuned model on the shared rows."""
    second: float
    """Mean score of the second run's tuned model on the shared rows."""
    difference: float
    """The difference, second minus first."""
    low: float
    """Lower end of the difference's interval."""
    high: float
    """Upper end of the difference's interval."""
    n: int
    """Number of test rows that both runs evaluated."""
    units: int = 0
    """Number of independent units among these rows: groups, and rows without a group."""
    p_value: float
    """p-value of the hypothesis that both runs are equal, not adjusted for several metrics."""
    outcome: ComparisonOutcome
    """``better`` if the second run is better; ``unclear`` if the interval includes zero."""
    p_value_holm: float | None = None
    """p-value adjusted for the number of comparisons, or None before :func:`adjust_differences`."""
    won: int = 0
    """Number of rows where the second run is better; meaningless for metrics of all rows."""
    lost: int = 0
    """Number of rows where the first run is better; meaningless for metrics of all rows."""
    detectable: float | None = None
    """Smallest difference that these rows can detect with 80 % power; None if there are too few."""
    confidence: float = 0.95
    """Level of the interval, between 0 and 1."""

    @property
    def is_clear(self) -> bool:
        """True if the difference is clear, after the adjustment for multiple tests (if any)."""
        p_value = self.p_value if self.p_value_holm is None else self.p_value_holm
        return self.outcome != "unclear" and p_value < 1 - self.confidence


def find_comparison_obstacles(first: RunResults, second: RunResults, catalog: Catalog) -> list[str]:
    """Return the reasons why two runs must not be compared, or [] if they are comparable.

    Comparable runs have the same test rows, and evaluators with the same options (including
    decoding) and versions. The catalog provides the default options of evaluators that a plan does
    not list.
    """
    shared = [key for key in second.measured if key in first.measured]
    if not shared:
        return ["the tuned models have no metric in common"]
    reasons = [*_find_other_rows(*(run.rows(*shared[0]).keys() for run in (first, second)))]
    for evaluator in dict.fromkeys(name for name, _ in shared):
        given = [_scorer_options(run.plan, evaluator, catalog) for run in (first, second)]
        changed = [
            k for k in given[0].keys() | given[1].keys() if given[0].get(k) != given[1].get(k)
        ]
        if changed:
            names = ", ".join(sorted(changed))
            reasons.append(f"the options of evaluator {evaluator} differ: {names}")
        versions = [run.find_version(evaluator) for run in (first, second)]
        if versions[0] != versions[1] and all(versions):
            reasons.append(
                f"the versions of evaluator {evaluator} differ: {versions[0]} and {versions[1]}"
            )
    return reasons


def _find_other_rows(first: Set[RowKey], second: Set[RowKey]) -> Iterator[str]:
    """Yield a reason if the rows themselves differ. Different weights of equal rows are allowed."""
    if first == second:
        return
    before, after = (Counter(key[0] for key in keys) for keys in (first, second))
    if before != after:
        common = (before & after).total()
        yield (f"the test rows differ: {before.total()} and {after.total()} rows, {common} in both")


def _scorer_options(plan: JSON, evaluator: str, catalog: Catalog) -> JSON:
    """Return an evaluator's options from the run file, or its default options.

    If the run file lists no evaluators, the data determines which ones run, with default options.
    """
    for table in plan.get("evaluators", []):
        if evaluator in (table.get("id"), table.get("use")):
            return {key: value for key, value in table.items() if key != "id"}
    try:
        defaults = catalog.find(EvaluatorOffer, evaluator).offer.config()
    except (OfferNotFoundError, PluginError, ValidationError):
        return {}
    return {"use": evaluator, **defaults.model_dump(mode="json")}


def row_key(row: JSON) -> str:
    """Return the key that identifies a row across runs: prompt and expected answer.

    Rows without a stored prompt are identified by their source instead.
    """
    identity = row["prompt"] if "prompt" in row else row.get("source")
    return repr((identity, row.get("expected")))


def pair_rows(
    first: RunResults,
    second: RunResults,
    evaluator: str,
    metric: str,
    metrics: Mapping[str, Metric] = NO_METRICS,
) -> PairedRows:
    """Pair the rows of two runs that have values of a metric. Identical rows pair in order.

    Rows match if their prompt, expected answer and weight are equal. For a loss per token the
    weight is the token count, so only rows with the same number of tokens in both models match. If
    a metric is computed over all rows together, compute it again on the shared rows; ``metrics``
    contains it by name.

    Raises:
        IntegrityError: a per-row results file is missing or damaged.
    """
    befores, afters = (run.rows(evaluator, metric) for run in (first, second))
    shared = [key for key in afters if key in befores]
    pairs = PairedRows(metric, [befores[key] for key in shared], [afters[key] for key in shared])
    is_part = len(shared) < max(len(befores), len(afters))
    pairs = pairs.with_contributions(metrics.get(metric)) if is_part else pairs
    return pairs.drop_zero_weights()


def _by_content(rows: Sequence[JSON], metric: str) -> dict[RowKey, JSON]:
    seen: dict[tuple[str, float], int] = {}
    keyed: dict[RowKey, JSON] = {}
    for row in rows:
        # In a metric of all rows together, weights depend on the other rows, not on the model.
        column = row[metric]
        content = row_key(row), 0.0 if "counts" in column else float(column["weight"])
        number = seen.get(content, 0)
        keyed[*content, number] = row
        seen[content] = number + 1
    return keyed


def compare_metrics(
    first: RunResults,
    second: RunResults,
    *,
    confidence: float = 0.95,
    metrics: Mapping[str, Metric] = NO_METRICS,
) -> dict[str, MetricDifference]:
    """Compare the tuned models of two runs by every metric that both have, on the shared rows.

    Args:
        first: the first run.
        second: the second run; differences are second minus first.
        confidence: level of the intervals.
        metrics: the installed metrics by name, needed for metrics of all rows together.

    Raises:
        UsageError: the runs have no metrics or no test rows in common.
        IntegrityError: a per-row results file is missing or damaged.
    """
    measured = first.measured, second.measured
    shared = [key for key in measured[1] if key in measured[0]]
    names = f"{first.folder} and {second.folder}"
    if not shared:
        raise UsageError(
            f"{names}: the tuned models have no metric in common",
            hint="list the same [[evaluators]] in both run files, and finish both runs",
        )
    differences = {}
    for key in shared:
        found = compare_metric(first, second, key, confidence=confidence, metrics=metrics)
        if found is not None:
            differences[second.report.metric_label(*key)] = found
    if not differences:
        raise UsageError(
            f"{names}: the runs have no test rows in common",
            hint="give both runs the same test file, or the same data, [split] and [run] seed",
        )
    return differences


def compare_metric(
    first: RunResults,
    second: RunResults,
    key: tuple[str, str],
    *,
    confidence: float = 0.95,
    metrics: Mapping[str, Metric] = NO_METRICS,
) -> MetricDifference | None:
    """Compare two runs by one evaluator and metric, or return None if they share no row."""
    pairs = pair_rows(first, second, *key, metrics)
    return compare_pairs(second.measured[key], pairs, confidence) if len(pairs) else None


def compare_pairs(measured: Measured, pairs: PairedRows, confidence: float) -> MetricDifference:
    """Return the paired difference of one metric, computed from the values of the shared rows."""
    values, weights = (pairs.baseline_values, pairs.tuned_values), pairs.weights
    found: Comparison = compare(
        *values,
        measured.higher_is_better,
        weights=weights,
        groups=pairs.groups,
        confidence=confidence,
        bounds=measured.bounds,
    )
    sign = 1 if measured.higher_is_better else -1
    gains = [sign * (after - before) for before, after in zip(*values, strict=True)]
    return MetricDifference(
        evaluator=measured.evaluator,
        metric=measured.metric,
        unit=measured.unit,
        higher_is_better=measured.higher_is_better,
        first=_mean(values[0], weights),
        second=_mean(values[1], weights),
        difference=found.difference.value,
        low=found.difference.low,
        high=found.difference.high,
        n=found.difference.n,
        units=found.difference.units,
        p_value=found.p_value,
        outcome=found.outcome,
        won=sum(gain > 0 for gain in gains),
        lost=sum(gain < 0 for gain in gains),
        detectable=found.detectable if math.isfinite(found.detectable) else None,
        confidence=confidence,
    )


def _mean(values: Sequence[float], weights: Sequence[float] | None) -> float:
    if weights is None:
        return math.fsum(values) / len(values)
    return math.fsum(w * v for w, v in zip(weights, values, strict=True)) / math.fsum(weights)


def adjust_differences(differences: Sequence[MetricDifference]) -> list[MetricDifference]:
    """Add Holm-adjusted p-values to differences that are tested together."""
    adjusted = adjust_p_values([found.p_value for found in differences])
    return [replace(found, p_value_holm=p) for found, p in zip(differences, adjusted, strict=True)]


@dataclass(frozen=True)
class ChangedRow:
    """A test row on which one of two runs is better, with both answers."""

    gain: float
    """Change of the value; positive if the second run is better."""
    first: JSON
    second: JSON


def find_row_metric(
    first: RunResults, second: RunResults, key: tuple[str, str]
) -> tuple[str, str] | None:
    """Return an evaluator and metric with one value per row: ``key`` itself, if it has such values.

    For a metric of all rows together, return the first per-row metric of the same evaluator.

    Returns:
        The evaluator and the metric, or None if no metric has a value per row.
    """
    shared = [k for k in second.measured if k in first.measured and k[0] == key[0]]
    judging = (
        (evaluator, metric)
        for evaluator, metric in (key, *shared)
        if all(
            has_own_value(row, metric)
            for run in (first, second)
            for row in run.rows(evaluator, metric).values()
        )
    )
    return next(judging, None)


def list_changed_rows(
    first: RunResults, second: RunResults, key: tuple[str, str]
) -> list[ChangedRow]:
    """Return the rows whose values differ between two runs, the largest difference first."""
    pairs = pair_rows(first, second, *key)
    sign = 1 if second.measured[key].higher_is_better else -1
    changed = [
        ChangedRow(sign * (later - earlier), old, new)
        for earlier, later, old, new in zip(
            pairs.baseline_values, pairs.tuned_values, pairs.baseline, pairs.tuned, strict=True
        )
        if later != earlier
    ]
    return sorted(changed, key=lambda row: -abs(row.gain))


def list_plan_differences(first: JSON, second: JSON) -> dict[str, tuple[Any, Any]]:
    """Return the keys whose values differ between two plans, with both values.

    A key that is missing from a plan has the value None.
    """
    plans = dict(_leaves(first)), dict(_leaves(second))
    keys = dict.fromkeys([*plans[0], *plans[1]])
    return {
        key: (plans[0].get(key), plans[1].get(key))
        for key in keys
        if plans[0].get(key) != plans[1].get(key) and not key.startswith(IGNORED_KEYS)
    }


def _leaves(value: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, below in value.items():
        name = f"{path}.{key}" if path else key
        if isinstance(below, Mapping) and below:
            yield from _leaves(below, name)
        else:
            yield name, below

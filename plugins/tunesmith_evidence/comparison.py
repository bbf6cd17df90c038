"""Compare runs row by row: first if they can be compared, then by how much they differ."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import ValidationError

from tunesmith.catalog import Catalog, OfferNotFound
from tunesmith.errors import PluginError, UsageError
from tunesmith.events import JSON, Measured
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
    "adjust",
    "compare_metrics",
    "find_obstacles",
    "find_row_metric",
    "list_changed_rows",
    "list_differences",
]

SKIPPED_EVENTS = ("step-finished", "stepped", "phase-started", "phase-ended", "first-batch")
"""Kinds of events that no comparison needs, which are nearly all lines of a log."""
IGNORED = ("run.name", "run.folder", "reporters", "plugins.files")
"""Keys of a plan that change no result."""
RowKey: TypeAlias = tuple[str, float, int]
"""A row of two runs is the same if :func:`row_key` and weight are, and the number of equal ones."""


@dataclass(frozen=True)
class RunResults:
    """The results of a run: its folder and its report."""

    folder: Path
    report: Report
    _rows: dict[tuple[str, str], dict[RowKey, JSON]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def read(cls, folder: Path) -> RunResults:
        """Read the results of a run, without the steps of its training.

        Raises:
            UsageError: there is no run in the folder.
            IntegrityError: its log is damaged.
        """
        run = RunFolder.open(folder)
        events = read_known_events(run.events, skipped=SKIPPED_EVENTS)
        return cls(run.path, build_report(events))

    @cached_property
    def measured(self) -> dict[tuple[str, str], Measured]:
        """The measurements of the tuned model, by evaluator and metric."""
        return {(event.evaluator, event.metric): event for event in self.report.tuned}

    @property
    def plan(self) -> JSON:
        """The plan that the run was started with; empty if it ended before it began."""
        return self.report.started.plan if self.report.started else {}

    def find_version(self, evaluator: str) -> str:
        """Return the version of an evaluator's distribution; empty if the log does not have it."""
        events = (event for (name, _), event in self.measured.items() if name == evaluator)
        return next((event.version for event in events), "")

    def rows(self, evaluator: str, metric: str) -> Mapping[RowKey, JSON]:
        """Return the rows of the tuned model by a metric; they are read once.

        Raises:
            IntegrityError: the file of values is lost or damaged.
        """
        key = evaluator, metric
        if key not in self._rows:
            path = self.folder / self.measured[key].records
            self._rows[key] = _by_content(read_rows(path, metric), metric)
        return self._rows[key]


@dataclass(frozen=True, kw_only=True)
class MetricDifference:
    """The paired difference of two runs by one metric, second minus first, in the metric's unit."""

    evaluator: str
    metric: str
    unit: str
    higher_is_better: bool
    first: float
    """Mean of the first run's tuned model over the shared rows."""
    second: float
    """Mean of the second run's tuned model over the same rows."""
    difference: float
    """Second minus first."""
    low: float
    """Lower bound of the difference's interval."""
    high: float
    """Upper bound of the difference's interval."""
    n: int
    """Number of test rows that both runs evaluated."""
    p_value: float
    """Of the hypothesis that there is no difference; not adjusted for several metrics."""
    outcome: ComparisonOutcome
    """``better`` if the second run is better; ``unclear`` if the interval includes zero."""
    p_value_holm: float | None = None
    """Adjusted for the number of comparisons, if :func:`adjust` was called."""
    won: int = 0
    """Rows on which the second run is better. Without meaning for a metric of all rows together."""
    lost: int = 0
    """Rows on which the first run is better."""
    detectable: float | None = None
    """Smallest difference that these rows show in four of five cases, at the measured spread; None
    if they are too few for any."""
    confidence: float = 0.95
    """Of the interval, between 0 and 1."""

    @property
    def is_clear(self) -> bool:
        """True if the difference is clear beside all others that were tested."""
        p_value = self.p_value if self.p_value_holm is None else self.p_value_holm
        return self.outcome != "unclear" and p_value < 1 - self.confidence


def find_obstacles(first: RunResults, second: RunResults, catalog: Catalog) -> list[str]:
    """Return the reasons why the scores of two runs must not be compared; none if they may.

    The test rows, the options and versions of evaluators, and so the decoding, must be equal.
    The catalog has the default options of evaluators that a plan does not name.
    """
    shared = [key for key in second.measured if key in first.measured]
    if not shared:
        return ["the tuned models were not measured by a common metric"]
    reasons = [*_find_other_rows(*(run.rows(*shared[0]).keys() for run in (first, second)))]
    for evaluator in dict.fromkeys(name for name, _ in shared):
        given = [_scorer_options(run.plan, evaluator, catalog) for run in (first, second)]
        changed = [
            k for k in given[0].keys() | given[1].keys() if given[0].get(k) != given[1].get(k)
        ]
        if changed:
            names = ", ".join(sorted(changed))
            reasons.append(f"the scorer {evaluator} has other options: {names}")
        versions = [run.find_version(evaluator) for run in (first, second)]
        if versions[0] != versions[1] and all(versions):
            reasons.append(
                f"the scorer {evaluator} has another version: {versions[0]} and {versions[1]}"
            )
    return reasons


def _find_other_rows(first: Set[RowKey], second: Set[RowKey]) -> Iterator[str]:
    """Yield the difference of the rows, if they differ by more than their weights."""
    if first == second:
        return
    before, after = (Counter(key[0] for key in keys) for keys in (first, second))
    if before != after:
        common = (before & after).total()
        yield (f"the test rows differ: {before.total()} and {after.total()} rows, {common} in both")


def _scorer_options(plan: JSON, evaluator: str, catalog: Catalog) -> JSON:
    """Return the options of an evaluator: those of the run file, else the defaults.

    A run file without evaluators leaves them to the data, with their default options.
    """
    for table in plan.get("evaluators", []):
        if evaluator in (table.get("id"), table.get("use")):
            return {key: value for key, value in table.items() if key != "id"}
    try:
        defaults = catalog.find(EvaluatorOffer, evaluator).offer.config()
    except (OfferNotFound, PluginError, ValidationError):
        return {}
    return {"use": evaluator, **defaults.model_dump(mode="json")}


def row_key(row: JSON) -> str:
    """Return what makes a row of two runs the same: prompt and expected answer, else the source."""
    identity = row["prompt"] if "prompt" in row else row.get("source")
    return repr((identity, row.get("expected")))


def pair_rows(
    first: RunResults,
    second: RunResults,
    evaluator: str,
    metric: str,
    metrics: Mapping[str, Metric] = NO_METRICS,
) -> PairedRows:
    """Return the rows of both runs by a metric; equal rows are paired in their order.

    Rows whose weights differ are skipped: a loss per token is compared only where both models
    count the same tokens. Of other rows a metric of all rows together, found by its name among
    ``metrics``, is that of the shared rows.

    Raises:
        IntegrityError: a file of values is lost or damaged.
    """
    befores, afters = (run.rows(evaluator, metric) for run in (first, second))
    shared = [key for key in afters if key in befores]
    pairs = PairedRows(metric, [befores[key] for key in shared], [afters[key] for key in shared])
    is_part = len(shared) < max(len(befores), len(afters))
    pairs = pairs.with_contributions(metrics.get(metric)) if is_part else pairs
    return pairs.without_weightless()


def _by_content(rows: Sequence[JSON], metric: str) -> dict[RowKey, JSON]:
    seen: dict[tuple[str, float], int] = {}
    keyed: dict[RowKey, JSON] = {}
    for row in rows:
        # Weights of a metric of all rows together depend on the other rows, and not on the model.
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
    """Compare the tuned models of two runs by every metric that both measured, on shared rows.

    ``metrics`` are the installed ones by name, for those of all rows together.

    Raises:
        UsageError: the runs share no metric, or no test row.
        IntegrityError: a file of values is lost or damaged.
    """
    measured = first.measured, second.measured
    shared = [key for key in measured[1] if key in measured[0]]
    names = f"{first.folder} and {second.folder}"
    if not shared:
        raise UsageError(
            f"{names}: the tuned models were not measured by a common metric",
            hint="name the same [[evaluators]] in both run files; unfinished runs have no metrics",
        )
    differences = {}
    for key in shared:
        after = measured[1][key]
        pairs = pair_rows(first, second, *key, metrics)
        if len(pairs):
            name = second.report.metric_label(after.evaluator, after.metric)
            differences[name] = compare_pairs(after, pairs, confidence)
    if not differences:
        raise UsageError(
            f"{names}: no row was held out in both runs",
            hint="use the same data, [split] and [run] seed, or a file of test rows",
        )
    return differences


def compare_pairs(measured: Measured, pairs: PairedRows, confidence: float) -> MetricDifference:
    """Return the paired difference of one metric."""
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


def adjust(differences: Sequence[MetricDifference]) -> list[MetricDifference]:
    """Return differences that are tested together, with p-values adjusted by Holm."""
    adjusted = adjust_p_values([found.p_value for found in differences])
    return [replace(found, p_value_holm=p) for found, p in zip(differences, adjusted, strict=True)]


@dataclass(frozen=True)
class ChangedRow:
    """A test row on which one of two runs is better, with both answers."""

    gain: float
    """Above 0 if the second run is better."""
    first: JSON
    second: JSON


def find_row_metric(
    first: RunResults, second: RunResults, key: tuple[str, str]
) -> tuple[str, str] | None:
    """Return the evaluator and metric that judge rows one by one: this one, if it has such values.

    Of a metric of all rows together it is the first one of its evaluator; None if there is none.
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
    """Return the rows on which two runs differ by a metric, the largest difference first."""
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


def list_differences(first: JSON, second: JSON) -> dict[str, tuple[Any, Any]]:
    """Return the keys of two plans whose values differ, with both; None stands for no such key."""
    plans = dict(_leaves(first)), dict(_leaves(second))
    keys = dict.fromkeys([*plans[0], *plans[1]])
    return {
        key: (plans[0].get(key), plans[1].get(key))
        for key in keys
        if plans[0].get(key) != plans[1].get(key) and not key.startswith(IGNORED)
    }


def _leaves(value: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, below in value.items():
        name = f"{path}.{key}" if path else key
        if isinstance(below, Mapping) and below:
            yield from _leaves(below, name)
        else:
            yield name, below

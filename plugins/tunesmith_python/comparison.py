"""Compare the tuned models of two runs on the rows that were held out in both."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tunesmith import api
from tunesmith.errors import UsageError
from tunesmith.events import JSON, TUNED, Measured
from tunesmith.execution.evaluate import read_rows
from tunesmith.execution.report import Report
from tunesmith.statistics import mean_interval
from tunesmith_evidence.pairs import PairedRows
from tunesmith_evidence.statistics import ComparisonOutcome, compare
from tunesmith_python.html import table_to_html


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
    difference: float
    low: float
    """Lower bound of the difference's interval."""
    high: float
    n: int
    """Number of held-out rows that both runs evaluated."""
    p_value: float
    """Of the hypothesis that there is no difference; not adjusted for several metrics."""
    outcome: ComparisonOutcome
    """``better`` if the second run is better; ``unclear`` if the interval includes zero."""


@dataclass(frozen=True)
class RunComparison(Mapping[str, MetricDifference]):
    """The differences of two runs by metric; ``evaluator: metric`` if two evaluators share it."""

    first: Path
    second: Path
    differences: Mapping[str, MetricDifference]

    def __getitem__(self, metric: str) -> MetricDifference:
        return self.differences[metric]

    def __iter__(self) -> Iterator[str]:
        return iter(self.differences)

    def __len__(self) -> int:
        return len(self.differences)

    def to_json(self) -> JSON:
        """Return the comparison as JSON, ``tunesmith.compare/1``."""
        return {
            "schema": "tunesmith.compare/1",
            "first": str(self.first),
            "second": str(self.second),
            "metrics": {name: vars(found) for name, found in self.differences.items()},
        }

    def _repr_html_(self) -> str:
        """Return the differences as a table, for notebooks."""
        names = ["metric", self.first.name, self.second.name, "difference", "interval", "n", ""]
        rows = [
            [
                name,
                f"{found.first:.3f}",
                f"{found.second:.3f}",
                f"{found.difference:+.3f}",
                f"[{found.low:+.3f}, {found.high:+.3f}]",
                f"{found.n}",
                found.outcome,
            ]
            for name, found in self.differences.items()
        ]
        return table_to_html(names, rows)


def compare_runs(first: Path, second: Path, *, confidence: float = 0.95) -> RunComparison:
    """Compare the tuned models of two runs by every metric that both measured.

    A row is the same if its source (``file:line``), its expected answer and its weight are: so a
    loss per token is compared only where both models count the same tokens.

    Args:
        first: the run folder that is subtracted.
        second: the run folder that it is subtracted from.
        confidence: of the intervals, between 0 and 1.

    Raises:
        UsageError: the runs share no metric, or no held-out row.
        IntegrityError: a file of values is lost or damaged.
    """
    reports = [api.read_report(folder) for folder in (first, second)]
    measured = [_measured_of_tuned(report) for report in reports]
    shared = [key for key in measured[1] if key in measured[0]]
    if not shared:
        raise UsageError(
            f"{first} and {second}: the tuned models were not measured by a common metric",
            hint="name the same [[evaluators]] in both run files; unfinished runs have no metrics",
        )
    differences = {}
    for key in shared:
        before, after = measured[0][key], measured[1][key]
        pairs = _pair_rows(first / before.records, second / after.records, before.metric)
        if len(pairs):
            name = reports[1].metric_label(after.evaluator, after.metric)
            differences[name] = _compare_metric(after, pairs, confidence)
    if not differences:
        raise UsageError(
            f"{first} and {second}: no row was held out in both runs",
            hint="use the same data, [split] and [run] seed, or a file of held-out rows",
        )
    return RunComparison(first, second, differences)


def _measured_of_tuned(report: Report) -> dict[tuple[str, str], Measured]:
    """Return the measurements of the tuned model by evaluator and metric."""
    events = report.measured.values()
    return {(e.evaluator, e.metric): e for e in events if e.model == TUNED}


def _pair_rows(first: Path, second: Path, metric: str) -> PairedRows:
    """Return the rows that are in both files; equal rows are paired in their order."""
    befores = _by_content(read_rows(first, metric), metric)
    afters = _by_content(read_rows(second, metric), metric)
    shared = [key for key in afters if key in befores]
    return PairedRows(metric, [befores[key] for key in shared], [afters[key] for key in shared])


def _by_content(rows: Sequence[JSON], metric: str) -> dict[tuple[object, ...], JSON]:
    seen: Counter[tuple[object, ...]] = Counter()
    keyed: dict[tuple[object, ...], JSON] = {}
    for row in rows:
        key = (row.get("source"), row.get("expected"), row[metric]["weight"])
        keyed[*key, seen[key]] = row
        seen[key] += 1
    return keyed


def _compare_metric(measured: Measured, pairs: PairedRows, confidence: float) -> MetricDifference:
    # A quantity with a unit is no share, even where all its values are 0.
    bounds = (-math.inf, math.inf) if measured.unit else None
    first, second = (
        mean_interval(values, pairs.weights, bounds=bounds).value
        for values in (pairs.rival_values, pairs.tuned_values)
    )
    comparison = compare(
        pairs.rival_values,
        pairs.tuned_values,
        measured.higher_is_better,
        weights=pairs.weights,
        groups=pairs.groups,
        confidence=confidence,
        bounds=bounds,
    )
    return MetricDifference(
        evaluator=measured.evaluator,
        metric=measured.metric,
        unit=measured.unit,
        higher_is_better=measured.higher_is_better,
        first=first,
        second=second,
        difference=comparison.difference.value,
        low=comparison.difference.low,
        high=comparison.difference.high,
        n=comparison.difference.n,
        p_value=comparison.p_value,
        outcome=comparison.outcome,
    )

"""Read the values of two models on the rows that both answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from tunesmith.catalog import Catalog
from tunesmith.events import JSON, Measured
from tunesmith.execution.evaluate import read_rows
from tunesmith.offers import EvaluatorOffer, Metric
from tunesmith_evidence.statistics import row_contributions

if TYPE_CHECKING:
    from tunesmith_evidence.statistics.contributions import Matrix

__all__ = ["NO_METRICS", "PairedRows", "list_metrics", "read_pairs"]

NO_METRICS: Mapping[str, Metric] = MappingProxyType({})


@dataclass(frozen=True)
class PairedRows:
    """The rows of two models' evaluations with the same metric, paired by row."""

    metric: str
    baseline: Sequence[JSON]
    tuned: Sequence[JSON]

    def __len__(self) -> int:
        return len(self.tuned)

    @property
    def baseline_values(self) -> list[float]:
        """The values of the first model, usually a baseline."""
        return [float(row[self.metric]["value"]) for row in self.baseline]

    @property
    def tuned_values(self) -> list[float]:
        """The values of the second model, usually the tuned one."""
        return [float(row[self.metric]["value"]) for row in self.tuned]

    @property
    def weights(self) -> list[float] | None:
        """The weights of the rows, shared by both models, or None if all are equal."""
        weights = [float(row[self.metric]["weight"]) for row in self.tuned]
        return weights if len(set(weights)) > 1 else None

    @property
    def groups(self) -> list[str | None] | None:
        """The group of each row, or None if no row has a group."""
        groups = [row.get("group") for row in self.tuned]
        return groups if any(group is not None for group in groups) else None

    def drop_zero_weights(self) -> PairedRows:
        """Return the rows whose weight is not 0. A model was not scored on rows of weight 0."""
        kept = [
            (first, second)
            for first, second in zip(self.baseline, self.tuned, strict=True)
            if first[self.metric]["weight"] and second[self.metric]["weight"]
        ]
        return replace(self, baseline=[row for row, _ in kept], tuned=[row for _, row in kept])

    def with_contributions(self, metric: Metric | None) -> PairedRows:
        """Recompute the contributions to a metric of all rows together, for these rows only.

        The stored contributions belong to the metric over all rows that a model was measured on.
        Metrics that are a mean over rows stay unchanged.

        Returns:
            The rows with new values; empty if the metric cannot be computed again.
        """
        if metric is None or metric.is_row_mean or not self.tuned:
            return self
        if metric.compute is None or "counts" not in self.tuned[0][self.metric]:
            return replace(self, baseline=(), tuned=())
        return replace(
            self,
            baseline=self._contribute(self.baseline, metric.compute),
            tuned=self._contribute(self.tuned, metric.compute),
        )

    def _contribute(
        self, rows: Sequence[JSON], compute: Callable[[Matrix], Matrix]
    ) -> Sequence[JSON]:
        counts = [_unpack(row[self.metric]["counts"]) for row in rows]
        values = row_contributions(counts, compute, self.weights)
        return [
            row | {self.metric: row[self.metric] | {"value": value}}
            for row, value in zip(rows, values, strict=True)
        ]


def _unpack(counts: Mapping[str, float]) -> list[float]:
    """Return the counts in all columns; stored counts omit zeros, except in the last column."""
    return [counts.get(str(column), 0.0) for column in range(max(map(int, counts)) + 1)]


def has_own_value(row: JSON, metric: str) -> bool:
    """Return True if a row has its own value, and not just a contribution to a metric of all rows.

    A contribution is not a score: it can be lower for a correct answer than for an incorrect one.
    """
    return metric in row and "counts" not in row[metric]


def list_metrics(catalog: Catalog) -> dict[str, Metric]:
    """Return the metrics of all installed evaluators, by name."""
    offers = [offered.offer for offered in catalog.offers(EvaluatorOffer)]
    return {metric.name: metric for offer in offers for metric in offer.metrics}


def read_pairs(
    folder: Path,
    baseline: Measured,
    tuned: Measured,
    metrics: Mapping[str, Metric] = NO_METRICS,
) -> PairedRows:
    """Read the rows that both events measured, matched by test row number.

    A slow model may have been evaluated on only some of the test rows. In that case, compute a
    metric of all rows together again on the shared rows; ``metrics`` contains it by name.

    Raises:
        IntegrityError: a per-row results file is missing or damaged.
    """
    first = _by_number(folder / baseline.records, baseline.metric)
    second = _by_number(folder / tuned.records, tuned.metric)
    numbers = [number for number in second if number in first]
    pairs = PairedRows(tuned.metric, [first[n] for n in numbers], [second[n] for n in numbers])
    is_part = len(numbers) < max(len(first), len(second))
    pairs = pairs.with_contributions(metrics.get(tuned.metric)) if is_part else pairs
    return pairs.drop_zero_weights()


def _by_number(path: Path, metric: str) -> dict[int, JSON]:
    """Return the rows by number, or by position in files of earlier versions without numbers."""
    rows = read_rows(path, metric)
    return {int(row.get("row", position)): row for position, row in enumerate(rows)}

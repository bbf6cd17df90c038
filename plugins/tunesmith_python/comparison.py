"""Compare the tuned models of two runs on their common test rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tunesmith import api, plugins
from tunesmith.catalog import Catalog
from tunesmith.events import JSON
from tunesmith_evidence.comparison import (
    MetricDifference,
    RunResults,
    adjust_differences,
    compare_metrics,
)
from tunesmith_evidence.number_text import (
    format_difference,
    format_interval,
    format_number,
    format_rows,
)
from tunesmith_evidence.pairs import list_metrics
from tunesmith_python.html import table_to_html


@dataclass(frozen=True)
class RunComparison(Mapping[str, MetricDifference]):
    """The differences between two runs, by metric (``evaluator: metric`` if several measure it)."""

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
        """Return the differences as an HTML table, for notebooks."""
        names = ["metric", self.first.name, self.second.name, "difference", "interval", "n", ""]
        rows = [
            [
                name,
                format_number(found.first),
                format_number(found.second),
                format_difference(found.difference),
                format_interval(found.low, found.high, signed=True),
                format_rows(found.n, found.units),
                found.outcome if found.is_clear else "unclear",
            ]
            for name, found in self.differences.items()
        ]
        return table_to_html(names, rows)


def compare_runs(first: Path, second: Path, *, confidence: float = 0.95) -> RunComparison:
    """Compare the tuned models of two runs by every metric that both measured.

    Rows match if their prompt, expected answer and weight are equal. For a loss per token, the
    weight is the token count, so the loss is compared only if both models split the answer into the
    same number of tokens. ``p_value_holm`` and ``is_clear`` are adjusted for the number of metrics.

    Args:
        first: folder of the first run.
        second: folder of the second run. Differences are second minus first.
        confidence: level of the intervals, between 0 and 1.

    Raises:
        UsageError: the runs share no metrics or no test rows.
        IntegrityError: a file with the values of each row is missing or damaged.
    """
    runs = [RunResults(folder, api.read_report(folder)) for folder in (first, second)]
    catalog = Catalog(plugins.find_plugins(plugins.Selection.from_environment()))
    found = compare_metrics(*runs, confidence=confidence, metrics=list_metrics(catalog))
    differences = dict(zip(found, adjust_differences([*found.values()]), strict=True))
    return RunComparison(first, second, differences)

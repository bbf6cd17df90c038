"""Format the numbers in the verdict's sentences."""

from __future__ import annotations

from dataclasses import dataclass

from tunesmith.events import Measured
from tunesmith_evidence.number_text import (
    format_confidence,
    format_difference,
    format_estimate,
    format_interval,
    format_number,
    format_rows,
)
from tunesmith_plugins.verdict.paired_comparisons import PairedComparison


@dataclass(frozen=True)
class MetricFormatter:
    """Formats the values of a metric with its name and unit."""

    label: str
    unit: str

    @property
    def is_share(self) -> bool:
        return not self.unit

    def plain(self, value: float) -> str:
        """Return a value as text, with its unit."""
        return f"{format_number(value)} {self.unit}".rstrip()

    def value(self, value: float) -> str:
        """Return the metric's name and a value as text."""
        return f"{self.label} {self.plain(value)}"

    def interval(self, measured: Measured) -> str:
        """Return the metric's name, a measured value and its interval."""
        return f"{self.label} {format_estimate(measured.value, measured.low, measured.high)}"

    def compare(self, comparison: PairedComparison) -> str:
        """Return the scores of baseline and tuned model, their difference and its interval."""
        baseline, tuned = comparison.values
        difference = comparison.comparison.difference
        confidence = format_confidence(comparison.confidence)
        interval = format_interval(
            difference.low, difference.high, signed=True, label=f"{confidence} CI"
        )
        rows = format_rows(difference.n, difference.units, "test row")
        return (
            f"{self.label} {format_number(baseline)} -> {self.plain(tuned)} on {rows}, "
            f"difference {format_difference(difference.value)}, {interval}"
        )

"""Data class for the comparison of a run with the first one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith_evidence.comparison import ChangedRow, MetricDifference, RunResults
from tunesmith_evidence.improvement import SliceChange


@dataclass(frozen=True)
class RunDifference:
    """Comparison of one run with the first one."""

    run: RunResults
    metrics: dict[str, MetricDifference]
    options: dict[str, tuple[Any, Any]]
    """Keys with different values in the two plans, with both values."""
    changed: Sequence[ChangedRow]
    """Rows with different scores by the first metric.

    If that metric has no scores per row, another metric of its evaluator is used.
    """
    slices: Sequence[SliceChange] = ()
    """Change of each slice, if ``tunesmith next`` created this run from the first one."""
    changed_by: str = ""
    """Metric that ``changed`` is based on, if it is not the first one."""
    moved: int = 0
    """Number of the first run's test rows that are training rows here, after ``tunesmith next``."""

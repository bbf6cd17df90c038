"""Define the result of comparing one run with the first one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith_evidence.comparison import ChangedRow, MetricDifference, RunResults
from tunesmith_evidence.improvement import SliceChange


@dataclass(frozen=True)
class RunDifference:
    """The comparison of a run with the first run, by all shared metrics."""

    run: RunResults
    metrics: dict[str, MetricDifference]
    options: dict[str, tuple[Any, Any]]
    """Keys with different values in the two plans, with both values."""
    changed: Sequence[ChangedRow]
    """Rows whose scores by the first metric differ.

    If that metric has no per-row scores, another metric of the same evaluator is used.
    """
    slices: Sequence[SliceChange] = ()
    """Changes of slices, if ``tunesmith next`` created this run from the first one."""
    changed_by: str = ""
    """Metric that ``changed`` is based on, unless it is the first one."""
    moved: int = 0
    """Number of the first run's test rows that ``tunesmith next`` made training rows here."""

"""The comparison of one run with the first one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith_evidence.comparison import ChangedRow, MetricDifference, RunResults
from tunesmith_evidence.improvement import SliceChange


@dataclass(frozen=True)
class RunDifference:
    """The comparison of one run with the first one."""

    run: RunResults
    metrics: dict[str, MetricDifference]
    options: dict[str, tuple[Any, Any]]
    """The keys of the plans that differ, with both values."""
    changed: Sequence[ChangedRow]
    """Rows on which the runs differ by the first metric, or by one of its evaluator that has values
    of rows."""
    slices: Sequence[SliceChange] = ()
    """If ``tunesmith next`` made the run from the first one: what changed, slice by slice."""
    changed_by: str = ""
    """The metric of ``changed``, if it is not the first one."""
    moved: int = 0
    """If so, the test rows of the first run that were moved to the training of this one."""

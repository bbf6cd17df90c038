"""Show how well a model's confidence is calibrated, and what each review threshold would automate.

The rows are the test rows that the ``review`` evaluator measured on the tuned model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tunesmith.execution.evaluate import read_rows
from tunesmith.execution.report import Report
from tunesmith.statistics import Interval, mean_interval
from tunesmith_evidence.review.policy import AUTOMATED, CONFIDENCE, find_policies

__all__ = ["ConfidenceView", "ConfidentRows", "read_confidences"]

MAX_GROUPS, MIN_GROUP_ROWS = 10, 10
"""Number of groups in the reliability diagram, and the smallest number of rows in each."""
MAX_THRESHOLDS = 40
_Row = tuple[float, float, str | None]
"""Confidence, 1 for a right answer or 0, and the row's group."""


@dataclass(frozen=True)
class ConfidentRows:
    """Test rows with similar confidence, or all rows with at least some confidence."""

    confidence: float
    """The mean confidence of similar rows, or the lowest confidence of the rows."""
    right: Interval
    """The share of right answers."""


@dataclass(frozen=True)
class ConfidenceView:
    """The confidence of the tuned model in its answers to the test rows."""

    finding: str
    """A sentence about the threshold that the run chose on validation rows."""
    groups: Sequence[ConfidentRows]
    """Groups of rows with similar confidence, the lowest first."""
    thresholds: Sequence[ConfidentRows]
    """The rows above each threshold, the highest first; answers cut off are above none."""
    chosen: int
    """Position of the last threshold that automates no more rows than the run's own, or 0."""


def read_confidences(folder: Path, report: Report) -> ConfidenceView | None:
    """Return the tuned model's confidences, or None if the run has no ``review`` evaluator.

    Raises:
        IntegrityError: a per-row results file is missing or damaged.
    """
    tuned = {event.metric: event for event in reversed(report.tuned)}
    measured, automated = tuned.get(CONFIDENCE), tuned.get(AUTOMATED)
    if measured is None or automated is None:
        return None
    first = report.tuned[0]  # the evaluator that decides for `review` which answers are right
    right = {
        row["row"]: row[first.metric]["value"]
        for row in read_rows(folder / first.records, first.metric)
    }
    rows = sorted(
        (row[CONFIDENCE]["value"], right[row["row"]], row.get("group"))
        for row in read_rows(folder / measured.records, CONFIDENCE)
        if row["row"] in right
    )
    [policy] = find_policies([automated]).values()
    own = 1.0 if policy.threshold is None else policy.confidence(policy.threshold)
    thresholds = [*_list_thresholds(rows)]
    return ConfidenceView(
        finding=str(automated.details.get("finding", "")),
        groups=[*_group_rows(rows)],
        thresholds=thresholds,
        chosen=max(0, sum(found.confidence > own for found in thresholds) - 1),
    )


def _group_rows(rows: Sequence[_Row]) -> Iterator[ConfidentRows]:
    """Yield groups of about equal size, where rows of equal confidence share a group."""
    size = max(MIN_GROUP_ROWS, math.ceil(len(rows) / MAX_GROUPS))
    start = 0
    for end in range(1, len(rows) + 1):
        is_last = end == len(rows)
        if is_last or (end - start >= size <= len(rows) - end and rows[end][0] > rows[end - 1][0]):
            mean = math.fsum(confidence for confidence, *_ in rows[start:end]) / (end - start)
            yield ConfidentRows(mean, _count_right(rows[start:end]))
            start = end


def _list_thresholds(rows: Sequence[_Row]) -> Iterator[ConfidentRows]:
    """Yield the rows above thresholds that automate about equal steps more, the fewest first."""
    last = len(rows) - 1
    places = (last - round(last * n / MAX_THRESHOLDS) for n in range(MAX_THRESHOLDS + 1))
    for cut in dict.fromkeys(rows[place][0] for place in places):
        if cut:
            yield ConfidentRows(cut, _count_right([row for row in rows if row[0] >= cut]))


def _count_right(rows: Sequence[_Row]) -> Interval:
    _, values, groups = zip(*rows, strict=True)
    return mean_interval(values, groups=groups, bounds=(0, 1))

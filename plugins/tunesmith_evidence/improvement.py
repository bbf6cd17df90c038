"""Test whether a weak slice improved in the next run, and whether another slice got worse.

The test rows are split into two halves with separate roles::

    first half     find weak slices, look at failures, collect new training rows for them
    second half    stays unseen until it decides whether the slices improved

The targets are the slices that looked weak on the first half, whatever their score on the second.
If the second half selected them too, a slice that was weak by chance would seem to improve
(regression to the mean). For example::

    slice "refunds"       parent run    child run
    first half            10 of 25      (not used: its failures guided the collection)
    second half           14 of 26      23 of 26       tested here, paired by row

Outcomes, after Holm's correction over all tested slices:

- ``improved``: a target is clearly better, and no longer clearly weaker than the other rows
- ``better``: clearly better, but not a target, or still clearly weaker than the other rows
- ``worse``: clearly worse
- ``unclear``: no clear difference
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from tunesmith.execution.evaluate import read_rows
from tunesmith.execution.report import Report
from tunesmith.statistics.sample import Bounds
from tunesmith_evidence.comparison import RunResults, pair_rows
from tunesmith_evidence.slices.candidates import Slice, find_candidates
from tunesmith_evidence.slices.discover import (
    MAX_OVERLAP,
    compute_overlap,
    compute_weakness,
    find_weak_slices,
    split_in_halves,
)
from tunesmith_evidence.slices.rows import ScoredRow, to_scored_rows
from tunesmith_evidence.statistics import Comparison, adjust_p_values, compare

__all__ = ["OTHER_ROWS", "SliceChange", "choose_verdict_metric", "compare_with_parent"]

OTHER_ROWS = "all other rows"
ALPHA = 0.05
MIN_ROWS = 10
"""Minimum number of rows of a slice in the second half for the slice to be tested."""


@dataclass(frozen=True, kw_only=True)
class SliceChange:
    """The change of a slice's score on the second half of the test rows."""

    name: str
    is_target: bool
    """True if the slice looked weak on the first half, so that rows were collected for it."""
    n: int
    """Number of the slice's rows that both runs answered."""
    units: int
    """Number of independent units among them: groups, and rows without a group."""
    before: float
    """Score of the parent run, in the metric's unit."""
    after: float
    """Score of the child run, in the metric's unit."""
    low: float
    """Lower end of the difference's 95 % confidence interval, not adjusted for multiple tests."""
    high: float
    """Upper end of the difference's 95 % confidence interval, not adjusted for multiple tests."""
    p_value: float
    """p-value, Holm-adjusted for all tested slices."""
    outcome: Literal["improved", "better", "worse", "unclear"]


def list_target_slices(rows: Sequence[ScoredRow], higher_is_better: bool) -> list[Slice]:
    """Return the slices that look weak on the first half, for which users collect rows."""
    return [weak.slice for weak in find_weak_slices(rows, higher_is_better)]


def judge_improvement(
    before: Sequence[ScoredRow],
    after: Mapping[int, float],
    higher_is_better: bool,
    *,
    targets: Sequence[Slice] | None = None,
    bounds: Bounds | None = None,
) -> list[SliceChange]:
    """Compare two runs slice by slice on the second half of the test rows.

    Args:
        before: the test rows of the parent run.
        after: values of the child run, keyed by row number in the parent run.
        higher_is_better: direction of the metric.
        targets: the slices that rows were collected for; None: use :func:`list_target_slices`.
        bounds: the metric's bounds; None: if all values are 0 or 1, they count as wrong and right.

    Returns:
        The tested slices, targets first.
    """
    if targets is None:
        targets = list_target_slices(before, higher_is_better)
    _, second = split_in_halves(before)
    usable = [i for i in second if before[i].number in after]
    # 1. Keep the slices with enough rows on the second half.
    tested = [
        (part, is_target, members)
        for part, is_target in _list_parts(before, targets)
        if len(members := [i for i in usable if i in part.members]) >= MIN_ROWS
    ]
    # 2. Compare the two runs on the rows of each slice, and adjust for the number of slices.
    comparisons = [
        compare(
            [before[i].value for i in members],
            [after[before[i].number] for i in members],
            higher_is_better,
            weights=[before[i].weight for i in members],
            groups=[before[i].group for i in members],
            bounds=bounds,
        )
        for _, _, members in tested
    ]
    adjusted = adjust_p_values([found.p_value for found in comparisons])
    changes = [
        _describe(before, part, is_target, members, found, p)
        for (part, is_target, members), found, p in zip(tested, comparisons, adjusted, strict=True)
    ]
    # 3. A target that is still weaker than the other rows is better, but not improved.
    child = [replace(row, value=after.get(row.number, row.value)) for row in before]
    sign = 1.0 if higher_is_better else -1.0
    return [
        replace(change, outcome="better")
        if change.outcome == "improved" and compute_weakness(child, usable, part, sign) < ALPHA
        else change
        for change, (part, _, _) in zip(changes, tested, strict=True)
    ]


def _list_parts(
    before: Sequence[ScoredRow], targets: Sequence[Slice]
) -> Iterator[tuple[Slice, bool]]:
    """Yield the slices to test, each with True if it is a target.

    These are the targets, all rows outside of the targets, and candidate slices that hardly overlap
    with a target.
    """
    for target in targets:
        yield target, True
    collected = frozenset[int]().union(*(target.members for target in targets))
    yield Slice(OTHER_ROWS, "rest", frozenset(range(len(before))) - collected), False
    for other in find_candidates(before):
        if all(compute_overlap(other, target) <= MAX_OVERLAP for target in targets):
            yield other, False


def _describe(
    before: Sequence[ScoredRow],
    part: Slice,
    is_target: bool,
    members: Sequence[int],
    found: Comparison,
    p_value: float,
) -> SliceChange:
    outcome: Literal["improved", "better", "worse", "unclear"] = "unclear"
    if p_value < ALPHA and found.outcome != "unclear":
        outcome = "improved" if is_target and found.outcome == "better" else found.outcome
    mass = math.fsum(before[i].weight for i in members)
    old = math.fsum(before[i].weight * before[i].value for i in members) / mass
    return SliceChange(
        name=part.name,
        is_target=is_target,
        n=len(members),
        units=found.difference.units,
        before=old,
        after=old + found.difference.value,
        low=found.difference.low,
        high=found.difference.high,
        p_value=p_value,
        outcome=outcome,
    )


def choose_verdict_metric(report: Report) -> tuple[str, str] | None:
    """Return an evaluator and metric: the verdict's, or those of the tuned model's first score.

    The result is None if the tuned model was not measured.
    """
    keys = [(e.evaluator, e.metric) for e in report.tuned]
    wanted = [key for key in keys if key[1] == report.verdict.get("metric")]
    return next(iter([*wanted, *keys]), None)


def compare_with_parent(parent: RunResults, child: RunResults) -> list[SliceChange]:
    """Return the change of each slice from a run to the next one, by the verdict's metric.

    Returns:
        The changes; empty if the next run was not measured with this metric, or if the metric is
        computed over all rows together.

    Raises:
        IntegrityError: a per-row results file is missing or damaged.
    """
    key = choose_verdict_metric(parent.report)
    if key is None or key not in child.measured:
        return []
    old = parent.measured[key]
    pairs = pair_rows(parent, child, *key)
    if len(pairs) and "counts" in pairs.tuned[0][old.metric]:
        return []  # A metric of all rows together cannot be split into slices.
    numbers = [int(row["row"]) for row in pairs.baseline]
    after = dict(zip(numbers, pairs.tuned_values, strict=True))
    before = to_scored_rows(read_rows(parent.folder / old.records, old.metric), old.metric)
    return judge_improvement(before, after, old.higher_is_better, bounds=old.bounds)

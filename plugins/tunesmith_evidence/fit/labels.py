"""Labels: has a model learned those of its training rows as well as a classifier knows new ones?

A classifier that learned from the same rows is wrong in a share ``e`` of the test rows. By Fano's
inequality, a model that is as good needs at most ``h(e) + e ln(K - 1)`` nats for a label of ``K``
(``h`` is the binary entropy; Cover and Thomas, "Elements of Information Theory", 2.10). A model
whose *training* answers cost more has not yet learned what the rows have to teach. A model whose
training answers cost less has, and if it is worse on test rows then, more training is no remedy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tunesmith.events import Measured
from tunesmith.execution.evaluate import read_rows
from tunesmith.execution.report import Report
from tunesmith_evidence.fit.course import Course
from tunesmith_evidence.slices.rows import to_rows
from tunesmith_evidence.tasks.kinds import task_kind


@dataclass(frozen=True)
class LabelCost:
    """The cost of a label, in nats per answer of the training rows."""

    nats: float
    """The cost for the tuned model."""
    bound: float
    """The most that a model needs that is as good as the classifier."""
    classifier: str
    """The best classifier; it is clearly better than the tuned model."""


def find_label_cost(folder: Path, report: Report, course: Course) -> LabelCost | None:
    """Compare the tuned model's training answers with the best classifier's test answers.

    Returns:
        None if no classifier is clearly better than the tuned model, the answers are not labels, or
        rows have several answers: their loss is that of all, and a classifier gives the last one.

    Raises:
        IntegrityError: an evaluation's file is damaged.
    """
    best = max(_better_classifiers(report), key=lambda event: event.value, default=None)
    nats = _nats_per_answer(folder, report, course)
    if best is None or nats is None:
        return None
    rows = to_rows(read_rows(folder / best.records, best.metric), best.metric)
    expected = [row.expected for row in rows]
    has_turns = any(role == "assistant" for row in rows for role, _ in row.prompt)
    if has_turns or task_kind(expected) != "classes":
        return None
    return LabelCost(nats, fano_bound(1 - best.low, len(set(expected))), best.model)


def count_other_answers(report: Report) -> tuple[int, int]:
    """Return the number of the tuned model's answers that are none of the labels, and of all."""
    for event in report.tuned:
        if "no_label" in event.details:
            return int(event.details["no_label"]), event.n
    return 0, 0


def fano_bound(error: float, labels: int) -> float:
    """Return the most nats that a label costs if this share of predictions is wrong."""
    error = min(error, 1 - 1 / labels)
    if error <= 0:
        return 0.0
    entropy = -error * math.log(error) - (1 - error) * math.log1p(-error)
    return entropy + error * math.log(max(1, labels - 1))


def _better_classifiers(report: Report) -> Iterator[Measured]:
    """Yield the results of classifiers that clearly get more rows right, by the first metric."""
    tuned = next(iter(report.tuned), None)
    if tuned is None or tuned.unit or not tuned.higher_is_better:
        return
    for name, baseline in report.baselines.items():
        event = report.measured.get((name, tuned.evaluator, tuned.metric))
        if event is None or baseline.solution != "classifier" or not baseline.cost:
            continue
        if event.low > tuned.value:
            yield event


def _nats_per_answer(folder: Path, report: Report, course: Course) -> float | None:
    """Return the cost of a training answer: under the tuned model, or else in the last steps."""
    for trained in report.training_rows.values():
        if not trained.higher_is_better and trained.unit == "nats/token":
            rows = [
                row[trained.metric] for row in read_rows(folder / trained.records, trained.metric)
            ]
            return math.fsum(row["value"] * row["weight"] for row in rows) / max(1, len(rows))
    rows_seen = sum(step.rows for step in course.last_steps)
    if not course.is_of_data or course.is_of_pairs or not rows_seen:
        return None
    return math.fsum(step.loss * step.trained_tokens for step in course.last_steps) / rows_seen

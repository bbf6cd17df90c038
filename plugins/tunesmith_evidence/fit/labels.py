"""Check whether a model knows its training labels as well as a classifier knows test labels.

A classifier that learned from the same rows gets a share ``e`` of the test rows wrong. By Fano's
inequality, a model with the same error needs at most ``h(e) + e ln(K - 1)`` nats per label, for
``K`` labels and the binary entropy ``h`` (Cover and Thomas, "Elements of Information Theory",
2.10). Compare this bound with the cost of the model's *training* answers:

- above the bound: the model has not yet learned what the rows teach, so more training should help
- below the bound: the model has learned it; if it is still worse on test rows, too little training
  is not the cause
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tunesmith.events import Measured
from tunesmith.execution.evaluate import read_rows
from tunesmith.execution.report import Report
from tunesmith_evidence.fit.course import LossHistory
from tunesmith_evidence.slices.rows import to_scored_rows
from tunesmith_evidence.tasks.kinds import detect_task_kind


@dataclass(frozen=True)
class LabelCost:
    """The tuned model's cost of a training answer in nats, and the bound from a classifier."""

    nats: float
    """The tuned model's mean cost per training answer."""
    bound: float
    """The highest cost for a model that is as good as the classifier."""
    classifier: str
    """Name of the best classifier, which is clearly better than the tuned model."""


def find_label_cost(folder: Path, report: Report, course: LossHistory) -> LabelCost | None:
    """Compare the tuned model's training answers with the test answers of the best classifier.

    Returns:
        The costs, or None in these cases:

        - no classifier is clearly better than the tuned model
        - the answers are not labels
        - rows have several answers: the loss covers all of them, but a classifier only the last one

    Raises:
        IntegrityError: an evaluation file is damaged.
    """
    best = max(_better_classifiers(report), key=lambda event: event.value, default=None)
    nats = _nats_per_answer(folder, report, course)
    if best is None or nats is None:
        return None
    rows = to_scored_rows(read_rows(folder / best.records, best.metric), best.metric)
    expected = [row.expected for row in rows]
    has_turns = any(role == "assistant" for row in rows for role, _ in row.prompt)
    if has_turns or detect_task_kind(expected) != "classes":
        return None
    return LabelCost(nats, fano_bound(1 - best.low, len(set(expected))), best.model)


def count_other_answers(report: Report) -> tuple[int, int]:
    """Count the tuned model's answers that are not a label, and all of its answers."""
    for event in report.tuned:
        if "no_label" in event.details:
            return int(event.details["no_label"]), event.n
    return 0, 0


def fano_bound(error: float, labels: int) -> float:
    """Return Fano's bound for a label's cost in nats, given the share of wrong answers."""
    error = min(error, 1 - 1 / labels)
    if error <= 0:
        return 0.0
    entropy = -error * math.log(error) - (1 - error) * math.log1p(-error)
    return entropy + error * math.log(max(1, labels - 1))


def _better_classifiers(report: Report) -> Iterator[Measured]:
    """Yield the results of classifiers that clearly beat the tuned model in its first metric."""
    tuned = next(iter(report.tuned), None)
    if tuned is None or tuned.unit or not tuned.higher_is_better:
        return
    for name, baseline in report.baselines.items():
        event = report.measured.get((name, tuned.evaluator, tuned.metric))
        if event is None or baseline.solution != "classifier" or not baseline.cost:
            continue
        if event.low > tuned.value:
            yield event


def _nats_per_answer(folder: Path, report: Report, course: LossHistory) -> float | None:
    """Return the mean cost of a training answer, measured on the tuned model or in the last steps.

    Return None if neither is known.
    """
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

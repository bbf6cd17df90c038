"""The ``row-lengths`` check: find rows that are too long to train on or to evaluate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tunesmith.contracts import Finding
from tunesmith.offers import EvaluatorOffer
from tunesmith.plan import Component, Plan
from tunesmith.records import Record
from tunesmith_plugins.checks.row_lengths import answers, evaluated_rows, review

NEEDS = ("torch>=2.11", "transformers>=5.17")


def review_data(
    plan: Plan,
    evaluators: Sequence[Component[EvaluatorOffer[Any]]],
    train: Sequence[Record],
    validation: Sequence[Record],
    test: Sequence[Record],
) -> Sequence[Finding]:
    """Return findings about rows that exceed the token limits of the run or the model."""
    return [
        *review.review(plan, train),
        *evaluated_rows.review(plan, evaluators, validation, test),
        *answers.review_answers(plan, test),
    ]

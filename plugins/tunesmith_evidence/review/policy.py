"""The rule that decides which answers of a model are automated. Plain data, stored as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from tunesmith.contracts import TextModel
from tunesmith.events import JSON, Measured
from tunesmith.execution.report import Report
from tunesmith.records import Prompt
from tunesmith_evidence.review.scores import NEVER, score_answers

__all__ = ["AUTOMATED", "RIGHT", "ReviewPolicy", "ReviewedAnswer", "find_policies", "read_policy"]

AUTOMATED = "automated"
"""Metric: the share of rows whose answer needs no person."""
RIGHT = "automated-right"
"""Metric: the share of right answers among these rows."""
DETAIL = "review"
"""Key of the policy in the details of a measurement."""


@dataclass(frozen=True)
class ReviewedAnswer:
    """An answer, with the probability that it is right, and whether a person must check it."""

    text: str
    confidence: float
    needs_review: bool


@dataclass(frozen=True, kw_only=True)
class ReviewPolicy:
    """The threshold and the calibration of one model, chosen on validation rows."""

    precision: float
    """Share of automated answers that must be right."""
    threshold: float | None
    """Answers with a higher score are automated; None: no answer is."""
    slope: float
    intercept: float
    """With ``slope``, the calibration: confidence = 1 / (1 + exp(-(slope * score + intercept)))."""
    rows: int
    """Number of validation rows."""
    rows_needed: int
    """Fewest independent validation rows that can show the precision, if every answer is right."""
    curve: Sequence[Sequence[float]] = ()
    """Share of automated validation rows, and the share of right answers among these."""

    def confidence(self, score: float) -> float:
        """Return the calibrated probability that an answer with this score is right."""
        if score <= NEVER:
            return 0.0
        return (1 + math.tanh((self.slope * score + self.intercept) / 2)) / 2

    def needs_review(self, score: float) -> bool:
        """Return True if a person must check an answer with this score."""
        return self.threshold is None or score <= self.threshold

    def answer(
        self, model: TextModel, prompts: Sequence[Prompt], max_new_tokens: int
    ) -> list[ReviewedAnswer]:
        """Generate an answer to each prompt with the model that the policy was chosen for."""
        answers = model.generate(prompts, max_new_tokens)
        return [
            ReviewedAnswer(answer.text, self.confidence(score), self.needs_review(score))
            for answer, score in zip(answers, score_answers(model, prompts, answers), strict=True)
        ]

    def to_json(self) -> JSON:
        """Return the policy as a JSON object; :func:`read_policy` reads it."""
        return asdict(self)


def read_policy(measured: Measured) -> ReviewPolicy | None:
    """Return the policy in a measurement; None if there is none."""
    found = measured.details.get(DETAIL)
    return ReviewPolicy(**found) if measured.metric == AUTOMATED and found else None


def find_policies(report: Report) -> Mapping[str, ReviewPolicy]:
    """Return the policies of a run by model: ``tuned``, or the name of a baseline.

    If several evaluators chose a policy, the first one counts.
    """
    found = [(event.model, read_policy(event)) for event in report.measured.values()]
    return {model: policy for model, policy in reversed(found) if policy is not None}

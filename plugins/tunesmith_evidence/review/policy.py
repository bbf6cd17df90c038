"""Decide with a review policy, stored as JSON, which answers of a model are automated."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tunesmith.contracts import TextModel
from tunesmith.events import Measured
from tunesmith.records import Message, Prompt
from tunesmith_evidence.review.scores import NEVER, score_answers

__all__ = [
    "AUTOMATED",
    "CONFIDENCE",
    "DETAIL",
    "RIGHT",
    "ReviewPolicy",
    "ReviewedAnswer",
    "find_policies",
]

AUTOMATED = "automated"
"""Name of the metric for the share of rows whose answers no person has to check."""
CONFIDENCE = "confidence"
"""Name of the metric for the calibrated probability that a row's answer is right."""
RIGHT = "automated-right"
"""Name of the metric for the share of right answers among the automated ones."""
DETAIL = "review"
"""Key of the policy in the details of this metric."""


@dataclass(frozen=True)
class ReviewedAnswer:
    """An answer with its calibrated ``confidence``, the probability that it is right."""

    text: str
    confidence: float
    needs_review: bool
    """True if a person must check it."""


@dataclass(frozen=True, kw_only=True)
class ReviewPolicy:
    """The threshold and the calibration of one model, chosen on validation rows."""

    precision: float
    """Share of automated answers that must be right."""
    threshold: float | None
    """Answers with a higher score are automated; None: no answers are automated."""
    slope: float
    """Calibration: confidence = 1 / (1 + exp(-(slope * score + intercept)))."""
    intercept: float
    """Log-odds of a right answer with the score 0."""
    rows: int
    """Number of validation rows."""

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
        """Generate an answer to each prompt with the model that the policy was chosen for.

        A prompt of plain text is sent as a user's turn.
        """
        prompts = [(Message("user", p),) if isinstance(p, str) else p for p in prompts]
        answers = model.generate(prompts, max_new_tokens)
        return [
            ReviewedAnswer(answer.text, self.confidence(score), self.needs_review(score))
            for answer, score in zip(answers, score_answers(model, prompts, answers), strict=True)
        ]


def find_policies(measured: Sequence[Measured]) -> Mapping[str, ReviewPolicy]:
    """Return the policies of a run by model, the first one if several were chosen."""
    found = (event for event in reversed(measured) if event.metric == AUTOMATED)
    return {event.model: ReviewPolicy(**event.details[DETAIL]) for event in found}

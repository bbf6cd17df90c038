"""Evaluator ``review``: share of requests that a model can answer without a person.

A team rarely automates everything. Answers that the model is sure about are sent, the others go to
a person. The threshold is chosen on the validation rows for a required precision, and both the
share and its precision are measured on the test rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field

from tunesmith.contracts import Finding, Generation, Measurement, Progress, RunContext, TextModel
from tunesmith.errors import UsageError
from tunesmith.execution.wrapped_model import WrappedModel
from tunesmith.offers import EvaluatorOffer, Metric
from tunesmith.options import Options
from tunesmith.plan import Component
from tunesmith.prepared import RowWise
from tunesmith.records import Chat, Completion, Prompt, Record, last_exchange
from tunesmith.statistics import mean_interval
from tunesmith_evidence.number_text import format_number, format_share
from tunesmith_evidence.review.policy import AUTOMATED, DETAIL, RIGHT, ReviewPolicy
from tunesmith_evidence.review.scores import score_answers

CONFIDENCE = "confidence"


class ReviewOptions(Options):
    """Options of ``review``."""

    precision: float = Field(
        0.95,
        ge=0.5,
        lt=1,
        description="Share of the automated answers that must be right, such as `0.98`.",
    )
    right_from: float = Field(
        1.0,
        description=(
            "Score of the first evaluator from which an answer counts as right. `1.0` suits "
            "evaluators that only score right and wrong."
        ),
    )


@dataclass(frozen=True)
class RecordedModel(WrappedModel):
    """A text model that keeps its latest answer to each prompt."""

    answers: dict[Prompt, Generation] = field(default_factory=dict)

    def generate(
        self, prompts: Sequence[Prompt], max_new_tokens: int, *, progress: Progress | None = None
    ) -> Sequence[Generation]:
        """Generate answers and keep them."""
        found = super().generate(prompts, max_new_tokens, progress=progress)
        self.answers.update(zip(prompts, found, strict=True))
        return found


@dataclass(frozen=True)
class Review(RowWise):
    """Measures the automated share of rows, and the share of right answers among these."""

    options: ReviewOptions

    def measure(self, model: TextModel, records: Sequence[Record]) -> Sequence[Measurement]:
        """Raise an error: only a run has validation rows.

        Raises:
            UsageError: always.
        """
        raise UsageError("review chooses a threshold on the validation rows of a run")

    def compare(
        self, model: TextModel, records: Sequence[Record], run: RunContext
    ) -> Sequence[Measurement]:
        """Choose the policy on the validation rows, and apply it to the records.

        Raises:
            UsageError: the run's first evaluator does not generate answers to the rows' prompts.
        """
        from tunesmith_evidence.review.choose import choose_policy

        if run.measure_first is None or not len(run.validation):
            return []
        groups = [record.group for record in run.validation]
        scores, right = self._score(model, run.validation, run)
        policy = choose_policy(scores, right, groups, self.options.precision)
        scores, right = self._score(model, records, run)
        automated = tuple(float(not policy.needs_review(score)) for score in scores)
        found = [
            Measurement(
                metric=AUTOMATED,
                values=automated,
                details={
                    DETAIL: policy.to_json(),
                    "finding": describe(policy, automated, right, [r.group for r in records]),
                },
            ),
            Measurement(metric=CONFIDENCE, values=tuple(map(policy.confidence, scores))),
        ]
        if any(automated):
            values = tuple(map(float, right))
            found.append(Measurement(metric=RIGHT, values=values, weights=automated))
        return found

    def _score(
        self, model: TextModel, records: Sequence[Record], run: RunContext
    ) -> tuple[list[float], list[bool]]:
        """Return how sure the model is about its answer to each record, and if it is right."""
        recorded = RecordedModel(model)
        assert run.measure_first is not None
        values = run.measure_first(recorded, records).values
        prompts = [last_exchange(record)[0] for record in records]
        if not recorded.answers.keys() >= {*prompts}:
            raise UsageError("review: the run's first evaluator does not generate these answers")
        scores = score_answers(model, prompts, [recorded.answers[prompt] for prompt in prompts])
        return scores, [value >= self.options.right_from for value in values]


def describe(
    policy: ReviewPolicy,
    automated: Sequence[float],
    right: Sequence[bool],
    groups: Sequence[str | None],
) -> str:
    """Return the result on the test rows as a sentence."""
    target = format_share(policy.precision)
    if policy.threshold is None:
        reason = (
            f"that takes at least {policy.rows_needed:,} independent rows ([split] validation_size)"
            if policy.rows < policy.rows_needed
            else "its confidence may not tell right from wrong answers, or more rows are needed"
        )
        return (
            f"every request needs a person: {policy.rows:,} validation rows do not show that "
            f"{target} of any automated part are right; {reason}"
        )
    share = format_share(sum(automated) / len(automated))
    if not any(automated):
        return f"{share} of the test rows reach the confidence for {target} precision"
    found = mean_interval([*map(float, right)], automated, groups=groups)
    low, high = format_share(found.low), format_share(found.high)
    return (
        f"{share} of requests need no person (confidence above "
        f"{format_number(policy.confidence(policy.threshold))}): {format_share(found.value)} "
        f"[{low}, {high}] of these answers are right; required: {target}"
    )


def review(
    evaluators: Sequence[Component[EvaluatorOffer[Any]]], validation: Sequence[Record]
) -> Iterator[Finding]:
    """Yield an error if the run cannot choose a threshold, and a warning if rows are too few."""
    used = next((e for e in evaluators if isinstance(e.config, ReviewOptions)), None)
    if used is None:
        return
    from tunesmith_evidence.review.choose import count_rows_needed

    first, where = evaluators[0].offer, f"evaluators.{used.id}"
    decisive = first.metrics[0]
    if not (first.generates and decisive.is_row_mean and decisive.higher_is_better) or (
        first.name == used.offer.name
    ):
        yield Finding(
            level="error",
            where=where,
            message="the first evaluator must score each generated answer",
            hint='name one before it, such as [[evaluators]] use = "exact-match"',
        )
    needed = count_rows_needed(used.config.precision)  # type: ignore[attr-defined]
    if len(validation) < needed:
        yield Finding(
            level="warning" if len(validation) else "error",
            where=where,
            message=f"{len(validation):,} validation rows cannot show this precision: every "
            "request would need a person",
            hint=f"set [split] validation_size = {2 * needed} or more; {needed} are enough only if "
            "the model makes no mistake",
        )


REVIEW = EvaluatorOffer(
    name="review",
    summary="share of requests that need no person, at a precision that you require",
    config=ReviewOptions,
    build=Review,
    metrics=(
        Metric(name=AUTOMATED, higher_is_better=True, bounds=(0, 1)),
        Metric(name=CONFIDENCE, higher_is_better=True, bounds=(0, 1), is_descriptive=True),
        Metric(name=RIGHT, higher_is_better=True, bounds=(0, 1)),
    ),
    accepts=frozenset({Chat, Completion}),
    needs=("numpy>=1.26", "scikit-learn>=1.5", "scipy>=1.13"),
    generates=True,
)

"""The ``review`` evaluator: measure the share of requests that need no person.

Answers that the model is confident about are automated, and the others go to a person. The
evaluator chooses the threshold on the validation rows for a required precision, and applies it to
the test rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import Field

from tunesmith.contracts import Finding, Generation, Measurement, RunContext, TextModel
from tunesmith.errors import UsageError
from tunesmith.execution.wrapped_model import CachedModel
from tunesmith.offers import EvaluatorOffer, Metric
from tunesmith.options import Options
from tunesmith.plan import Component
from tunesmith.prepared import RowWise
from tunesmith.records import Record, last_exchange
from tunesmith.statistics import mean_interval
from tunesmith.text import format_count
from tunesmith_evidence.number_text import (
    format_confidence,
    format_estimate,
    format_number,
    format_share,
)
from tunesmith_evidence.review.policy import AUTOMATED, CONFIDENCE, DETAIL, RIGHT, ReviewPolicy
from tunesmith_evidence.review.scores import score_answers


class ReviewOptions(Options):
    """Options of ``review``: the precision that automated answers must have."""

    precision: float = Field(
        0.95,
        ge=0.5,
        lt=1,
        description="Share of the automated answers that must be right, such as `0.98`.",
    )


@dataclass(frozen=True)
class Review(RowWise):
    """Measures the automated share of rows, and the share of right answers among these."""

    options: ReviewOptions

    def measure(self, model: TextModel, records: Sequence[Record]) -> Sequence[Measurement]:
        """Raise an error, because only a run has validation rows."""
        raise UsageError(
            "review chooses a threshold on the validation rows of a run",
            hint="evaluate a run folder, or remove this evaluator",
        )

    def compare(
        self, model: TextModel, records: Sequence[Record], run: RunContext
    ) -> Sequence[Measurement]:
        """Choose the policy on the validation rows, and apply it to the records."""
        from tunesmith_evidence.review.choose import choose_policy

        if run.measure_first is None or not len(run.validation):
            return []
        groups = [record.group for record in run.validation]
        scores, right = score_rows(model, run.validation, run)
        policy = choose_policy(scores, right, groups, self.options.precision)
        scores, right = score_rows(model, records, run)
        automated = tuple(float(not policy.needs_review(score)) for score in scores)
        finding = describe(policy, automated, right, [record.group for record in records])
        details = {DETAIL: asdict(policy), "finding": finding}
        found = [
            Measurement(metric=AUTOMATED, values=automated, details=details),
            Measurement(metric=CONFIDENCE, values=tuple(map(policy.confidence, scores))),
        ]
        if any(automated):
            values = tuple(map(float, right))
            found.append(Measurement(metric=RIGHT, values=values, weights=automated))
        return found


def score_rows(
    model: TextModel, records: Sequence[Record], run: RunContext
) -> tuple[list[float], list[bool]]:
    """Return a model's confidence in its answer to each record, and whether the answer is right.

    Raises:
        UsageError: the first evaluator generates no answers to these prompts, or gives scores other
            than 0 and 1.
    """
    assert run.measure_first is not None
    cached, prompts = CachedModel(model), [last_exchange(record)[0] for record in records]
    values = run.measure_first(cached, records).values
    answers = {prompt: a for (prompt, _), a in cached.results.items() if isinstance(a, Generation)}
    if not answers.keys() >= {*prompts} or not {*values} <= {0.0, 1.0}:
        raise UsageError(
            "review: the first evaluator must rate each answer as right (1) or wrong (0)",
            hint="list such an evaluator first, for example exact-match",
        )
    scores = score_answers(model, prompts, [answers[prompt] for prompt in prompts])
    return scores, [value == 1 for value in values]


def describe(
    policy: ReviewPolicy,
    automated: Sequence[float],
    right: Sequence[bool],
    groups: Sequence[str | None],
) -> str:
    """Return the share of automated rows, and of right answers among them, as a sentence."""
    from tunesmith_evidence.review.choose import count_rows_needed

    target, needed = format_confidence(policy.precision), count_rows_needed(policy.precision)
    if policy.threshold is None:
        text = (
            f"every request needs a person: {policy.rows:,} validation rows do not show a precision"
            f" of {target} for any part of them"
        )
        few = f"; this takes at least {needed:,} independent rows ([split] validation_size)"
        return text + few * (policy.rows < needed)
    text = f"{format_share(sum(automated) / len(automated))} of requests need no person"
    if not any(automated):
        return text
    found = mean_interval([*map(float, right)], automated, groups=groups)
    return (
        f"{text} (confidence above {format_number(policy.confidence(policy.threshold))}); of their "
        f"answers, {format_estimate(found.value, found.low, found.high)} are right, with a "
        f"required precision of {target}"
    )


def review(
    evaluators: Sequence[Component[EvaluatorOffer[Any]]], validation: Sequence[Record]
) -> Iterator[Finding]:
    """Yield a finding for each reason why the run cannot choose a threshold."""
    for used in evaluators:
        if not isinstance(used.config, ReviewOptions):
            continue
        # Not at the top, because it imports scikit-learn, which most checks do not need.
        from tunesmith_evidence.review.choose import count_rows_needed

        first, where = evaluators[0].offer, f"evaluators.{used.id}"
        rates = first.generates and first.metrics[0].is_row_mean
        if first == used.offer or not rates or not first.metrics[0].higher_is_better:
            message = "the first evaluator must rate generated answers as right or wrong"
            hint = 'put such an evaluator before it, for example [[evaluators]] use = "exact-match"'
            yield Finding(level="error", where=where, message=message, hint=hint)
        needed = count_rows_needed(used.config.precision)
        if len(validation) < needed:
            message = (
                f"{format_count(len(validation), 'validation row')} cannot show a precision of "
                f"{format_confidence(used.config.precision)}: every request will need a person"
            )
            hint = (
                f"set [split] validation_size = {2 * needed} or more; {needed} are only enough if "
                "the model makes no mistake"
            )
            yield Finding(
                level="warning" if len(validation) else "error",
                where=where,
                message=message,
                hint=hint,
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
    needs=("numpy>=1.26", "scikit-learn>=1.5", "scipy>=1.13"),
    generates=True,
    reads_media=True,
)

"""Evaluator ``reward-margin``: how far training moved good answers away from bad ones."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

from tunesmith.contracts import Finding, Measurement, RunContext, TextModel
from tunesmith.errors import DataError
from tunesmith.offers import EvaluatorOffer, Metric
from tunesmith.plan import Plan
from tunesmith.records import Preference, Record, UnpairedPreference, last_exchange
from tunesmith_torch.compare.other_model import (
    ComparingEvaluator,
    ComparisonOptions,
    open_other_model,
)

METRIC = Metric(name="reward_margin", higher_is_better=True, unit="nats")


class RewardMarginOptions(ComparisonOptions):
    """Options: the other model, which the log-probabilities are compared with."""


class RewardMargin(ComparingEvaluator):
    """Compares how much likelier good and bad answers are than under another model.

    With ``r = log p(answer) - log q(answer)``, p the measured model and q the other one, the mean
    is that of r over good answers minus that over bad ones. Times beta, r is the implicit reward
    of DPO and KTO. The value of a pair is its own difference. A labeled answer is half of a pair:
    its value is ``2 r``, or ``-2 r`` for a bad one, and weights let good and bad ones count half
    each, whatever their numbers.
    """

    def __init__(self, options: RewardMarginOptions) -> None:
        self.options = options

    def compare(
        self, model: TextModel, records: Sequence[Record], run: RunContext | None
    ) -> Sequence[Measurement]:
        """Return one value per record; nothing if the other model has not been trained yet.

        Raises:
            DataError: a record is neither a pair nor a labeled answer.
        """
        answers = [
            (row, answer, factor)
            for row, record in enumerate(records)
            for answer, factor in _signed_answers(record)
        ]
        other = open_other_model(self.options, run)
        if other is None:
            return []
        prompts = [last_exchange(records[row])[0] for row, _, _ in answers]
        texts = [answer for _, answer, _ in answers]
        ours, theirs = (opened.score(prompts, texts) for opened in (model, other))
        values = [0.0] * len(records)
        for (row, _, factor), p, q in zip(answers, ours, theirs, strict=True):
            values[row] += factor * (math.fsum(p.logprobs) - math.fsum(q.logprobs))
        weights = tuple(_balanced_weights(records))
        return [Measurement(metric=METRIC.name, values=tuple(values), weights=weights)]


def _signed_answers(record: Record) -> Iterator[tuple[str, float]]:
    match record:
        case Preference():
            yield record.chosen, 1.0
            yield record.rejected, -1.0
        case UnpairedPreference():
            yield record.completion, 2.0 if record.label else -2.0
        case _:
            kind = type(record).__name__
            message = f"reward-margin needs pairs or answers with a label, this is a {kind}"
            raise DataError(record.source, message)


def _balanced_weights(records: Sequence[Record]) -> Iterator[float]:
    """Yield 1 for a pair; labeled answers have mean 1, and good and bad ones the same sum."""
    labels = [r.label if isinstance(r, UnpairedPreference) else None for r in records]
    counts = Counter(label for label in labels if label is not None)
    for label in labels:
        yield 1.0 if label is None else counts.total() / (len(counts) * counts[label])


def has_labels(records: Sequence[Record]) -> bool:
    """Return True if all records are pairs or labeled answers, and some have labels."""
    labeled = sum(isinstance(record, UnpairedPreference) for record in records)
    pairs = sum(isinstance(record, Preference) for record in records)
    return labeled > 0 and labeled + pairs == len(records)


REWARD_MARGIN = EvaluatorOffer(
    name="reward-margin",
    summary="how much likelier than under another model good answers are, compared to bad ones",
    config=RewardMarginOptions,
    build=RewardMargin,
    metrics=(METRIC,),
    accepts=frozenset({Preference, UnpairedPreference}),
    default_for=has_labels,
    needs=("torch>=2.11", "transformers>=5.17"),
    model_count=lambda options: 2,
    scores_references=True,
)


def review(plan: Plan, test: Sequence[Record]) -> Iterator[Finding]:
    """Yield an error if all labeled answers that would be measured are of one kind."""
    is_named = any(isinstance(e.config, RewardMarginOptions) for e in plan.evaluators)
    if not is_named and (plan.evaluators or not has_labels(test)):
        return
    labels = [record.label for record in test if isinstance(record, UnpairedPreference)]
    if len(set(labels)) == 1:
        kind = "good" if labels[0] else "bad"
        message = (
            f"all {len(labels)} test answers with a label are {kind}, and reward-margin "
            "compares good ones with bad ones: hold out more rows (data.test_size), or name other "
            "evaluators"
        )
        yield Finding(level="error", where="data.test_size", message=message)

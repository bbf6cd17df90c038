"""The ``reward-margin`` evaluator: measure how much training favored good answers over bad ones."""

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
    open_comparison_model,
)

METRIC = Metric(name="reward-margin", higher_is_better=True, unit="nats")


class RewardMarginOptions(ComparisonOptions):
    """Options of ``reward-margin``: the model whose log-probabilities are the reference."""


class RewardMargin(ComparingEvaluator):
    """Measures the mean reward of good answers minus the mean reward of bad answers, in nats.

    The reward of an answer is ``r = log p(answer) - log q(answer)``, where p is the measured model
    and q the other model. Multiplied by beta, r is the implicit reward of DPO and KTO.

    The value of a pair is ``r(chosen) - r(rejected)``. A labeled answer is half a pair, so its
    value is ``2 r`` if it is good and ``-2 r`` if it is bad. Weights make good and bad answers
    count equally, however many there are of each.
    """

    def __init__(self, options: RewardMarginOptions) -> None:
        self.options = options

    def compare(
        self, model: TextModel, records: Sequence[Record], run: RunContext | None
    ) -> Sequence[Measurement]:
        """Return one value per record, or an empty list until the other model has been trained.

        Raises:
            DataError: a record is neither a pair nor a labeled answer.
        """
        answers = [
            (row, answer, factor)
            for row, record in enumerate(records)
            for answer, factor in _signed_answers(record)
        ]
        other = open_comparison_model(self.options, run)
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
            message = (
                "reward-margin needs preference pairs or labeled answers, but this record is a "
                f"{kind}"
            )
            raise DataError(record.source, message)


def _balanced_weights(records: Sequence[Record]) -> Iterator[float]:
    """Yield a weight for each record, which is 1 for a pair.

    The weights of labeled answers have a mean of 1, and equal sums for both labels."""
    labels = [r.label if isinstance(r, UnpairedPreference) else None for r in records]
    counts = Counter(label for label in labels if label is not None)
    for label in labels:
        yield 1.0 if label is None else counts.total() / (len(counts) * counts[label])


def has_labels(records: Sequence[Record]) -> bool:
    """Return True if all records are pairs or labeled answers, and at least one is labeled."""
    labeled = sum(isinstance(record, UnpairedPreference) for record in records)
    pairs = sum(isinstance(record, Preference) for record in records)
    return labeled > 0 and labeled + pairs == len(records)


REWARD_MARGIN = EvaluatorOffer(
    name="reward-margin",
    summary="how much training raised the log-probability of good answers relative to bad ones",
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
    """Yield an error if the labeled test answers are all good or all bad."""
    is_named = any(isinstance(e.config, RewardMarginOptions) for e in plan.evaluators)
    if not is_named and (plan.evaluators or not has_labels(test)):
        return
    labels = [record.label for record in test if isinstance(record, UnpairedPreference)]
    if len(set(labels)) == 1:
        kind = "good" if labels[0] else "bad"
        message = (
            f"the labeled test answers ({len(labels):,}) are all {kind}, but reward-margin "
            "compares good answers with bad ones: use more test rows (data.test_size) or a "
            "different evaluator"
        )
        yield Finding(level="error", where="data.test_size", message=message)

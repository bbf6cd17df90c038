"""The ``loss`` evaluator: measure the mean loss per token on the reference answers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tunesmith.contracts import Measurement, TextModel
from tunesmith.offers import EvaluatorOffer, Metric
from tunesmith.options import Options
from tunesmith.prepared import RowWise
from tunesmith.records import Record, UnpairedPreference, exchanges, to_answer

METRIC = Metric(name="loss", higher_is_better=False, unit="nats/token", bounds=(0, math.inf))


class LossOptions(Options):
    """``loss`` has no options."""


class Loss(RowWise):
    """Measures the mean loss per token over a record's answers, except those labeled bad.

    The loss is the negative log-likelihood in nats. The mean over records is weighted by their
    tokens, so it equals the mean over all tokens, unlike a mean of batch means.
    """

    def measure(self, model: TextModel, records: Sequence[Record]) -> Sequence[Measurement]:
        """Return one value per record, weighted by its number of tokens."""
        scored = [
            (index, prompt, answer)
            for index, record in enumerate(records)
            for prompt, answer in exchanges(record)
            if not _is_bad(record)
        ]
        scores = model.score(
            [prompt for _, prompt, _ in scored], [to_answer(answer) for _, _, answer in scored]
        )
        logprobs: list[list[float]] = [[] for _ in records]
        for (index, _, _), score in zip(scored, scores, strict=True):
            logprobs[index].extend(score.logprobs)
        if records and not scored:
            return []  # all answers are labeled bad
        return [
            Measurement(
                metric=METRIC.name,
                values=tuple(_mean_loss(tokens) for tokens in logprobs),
                weights=tuple(float(len(tokens)) for tokens in logprobs),
            )
        ]


def _mean_loss(logprobs: Sequence[float]) -> float:
    """Return nats per token, or 0 for an empty answer, whose weight is also 0."""
    return -math.fsum(logprobs) / len(logprobs) if logprobs else 0.0


def _is_bad(record: Record) -> bool:
    """Return True for an answer labeled bad, which should not become more probable."""
    return isinstance(record, UnpairedPreference) and not record.label


def have_good_answers(records: Sequence[Record]) -> bool:
    """Return True unless all answers are labeled bad."""
    return not records or not all(map(_is_bad, records))


LOSS = EvaluatorOffer(
    name="loss",
    summary="mean loss on the reference answers, except bad ones, in nats per token",
    config=LossOptions,
    build=lambda options: Loss(),
    metrics=(METRIC,),
    default_for=have_good_answers,
    on_training_rows=True,
    scores_references=True,
    reads_media=True,
)

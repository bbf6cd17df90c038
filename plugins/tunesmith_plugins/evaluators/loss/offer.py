"""The offer and the measurement: negative log-likelihood of the answers, in nats per token."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tunesmith.contracts import Evaluator, Measurement, TextModel
from tunesmith.offers import EvaluatorOffer, Metric
from tunesmith.options import Options
from tunesmith.records import Record, exchanges

METRIC = Metric(name="loss", higher_is_better=False, unit="nats/token")


class LossOptions(Options):
    """The loss has no options: it is what training minimises."""


class Loss:
    """Mean negative log-likelihood per token of everything that a record teaches.

    The mean over records weighted by their tokens is the sum over all tokens divided by their
    number, whatever the batches were; a mean of batch means is not.
    """

    def measure(self, model: TextModel, records: Sequence[Record]) -> Sequence[Measurement]:
        """One value per record, weighted by its tokens."""
        asked = [
            (index, prompt, answer)
            for index, record in enumerate(records)
            for prompt, answer in exchanges(record)
        ]
        scores = model.score([prompt for _, prompt, _ in asked], [answer for _, _, answer in asked])
        logprobs: list[list[float]] = [[] for _ in records]
        for (index, _, _), score in zip(asked, scores, strict=True):
            logprobs[index].extend(score.logprobs)
        return [
            Measurement(
                metric=METRIC.name,
                values=tuple(_mean_loss(tokens) for tokens in logprobs),
                weights=tuple(float(len(tokens)) for tokens in logprobs),
            )
        ]


def _mean_loss(logprobs: Sequence[float]) -> float:
    """Nats per token; 0 for no tokens, which then also weigh nothing."""
    return -math.fsum(logprobs) / len(logprobs) if logprobs else 0.0


def build(options: LossOptions) -> Evaluator:
    """The evaluator."""
    return Loss()


def suits(records: Sequence[Record]) -> bool:
    """Any record teaches something that can be scored."""
    return True


LOSS = EvaluatorOffer(
    name="loss",
    summary="how surprised the model is by the right answers, in nats per token",
    config=LossOptions,
    build=build,
    metrics=(METRIC,),
    suits=suits,
)

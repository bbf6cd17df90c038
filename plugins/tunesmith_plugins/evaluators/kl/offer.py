"""The offer and the measurement: the divergence from another model, on the model's own answers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import Field

from tunesmith.contracts import (
    Evaluator,
    Measurement,
    RunSoFar,
    TextModel,
    sampling,
)
from tunesmith.offers import EvaluatorOffer, Metric
from tunesmith.records import Record, last_exchange
from tunesmith_torch.compare.other_model import Comparing, RivalOptions, rival

METRIC = Metric(name="kl", higher_is_better=False, unit="nats", describes=True)


class KlOptions(RivalOptions):
    """From whom, and by how many answers it is estimated."""

    samples: int = Field(2, ge=1, le=64, description="Answers drawn for each record.")
    tokens: int = Field(128, ge=1, description="Longest answer, in tokens.")
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of the draws.")


class Divergence(Comparing):
    """``log p(answer) - log q(answer)`` in nats, on average over answers that p drew.

    Its expectation is KL(p, q) over answers of so many tokens; a single value may be negative.
    """

    def __init__(self, options: KlOptions) -> None:
        self.options = options

    def against(
        self, model: TextModel, records: Sequence[Record], run: RunSoFar | None
    ) -> Sequence[Measurement]:
        """One value for each record; nothing before the other model is there.

        Raises:
            UsageError: a model cannot draw answers.
        """
        options = self.options
        other = rival(options, run)
        if other is None:
            return []
        prompts = [last_exchange(record)[0] for record in records for _ in range(options.samples)]
        drawn = sampling(model).sample(prompts, options.tokens, seed=options.seed)
        ours, theirs = (
            [math.fsum(s.logprobs) for s in sampling(asked).score_drawn(prompts, drawn)]
            for asked in (model, other)
        )
        apart = [mine - other for mine, other in zip(ours, theirs, strict=True)]
        values = tuple(
            math.fsum(apart[row : row + options.samples]) / options.samples
            for row in range(0, len(apart), options.samples)
        )
        return [Measurement(metric=METRIC.name, values=values)]


def build(options: KlOptions) -> Evaluator:
    """The evaluator."""
    return Divergence(options)


KL = EvaluatorOffer(
    name="kl",
    summary="how far the model has moved from another one, in nats for each answer",
    config=KlOptions,
    build=build,
    metrics=(METRIC,),
    needs=("torch>=2.11", "transformers>=5.17"),
    models=lambda options: 2,
)

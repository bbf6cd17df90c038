"""The ``kl`` evaluator: estimate the KL divergence of the model from another model."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import Field

from tunesmith.contracts import (
    Measurement,
    RunContext,
    TextModel,
    require_sampling,
)
from tunesmith.offers import EvaluatorOffer, Metric
from tunesmith.records import Record, last_exchange
from tunesmith_torch.compare.other_model import (
    ComparingEvaluator,
    ComparisonOptions,
    open_comparison_model,
)

METRIC = Metric(name="kl", higher_is_better=False, unit="nats", is_descriptive=True)


class KlOptions(ComparisonOptions):
    """Options of ``kl``: the other model, and how to sample answers for the estimate."""

    num_samples: int = Field(2, ge=1, le=64, description="Number of answers sampled per record.")
    max_new_tokens: int = Field(128, ge=1, description="Maximum tokens per answer.")
    seed: int = Field(0, ge=0, lt=2**31, description="Seed for sampling answers.")


class KlDivergence(ComparingEvaluator):
    """Estimates KL(p, q) between the measured model p and the other model q, in nats per answer.

    The value of a record is the mean of ``log p(answer) - log q(answer)`` over answers sampled from
    p. Its expectation is KL(p, q) over answers of at most ``max_new_tokens`` tokens. A single value
    can be negative.
    """

    def __init__(self, options: KlOptions) -> None:
        self.options = options

    def compare(
        self, model: TextModel, records: Sequence[Record], run: RunContext | None
    ) -> Sequence[Measurement]:
        """Return one value per record, or an empty list until the other model has been trained.

        Raises:
            UsageError: a model cannot sample answers.
        """
        options = self.options
        other = open_comparison_model(options, run)
        if other is None:
            return []
        count = options.num_samples
        prompts = [last_exchange(record)[0] for record in records for _ in range(count)]
        answers = require_sampling(model).sample(prompts, options.max_new_tokens, seed=options.seed)
        log_p, log_q = (
            [
                math.fsum(scores.logprobs)
                for scores in require_sampling(opened).score_generations(prompts, answers)
            ]
            for opened in (model, other)
        )
        log_ratios = [ours - theirs for ours, theirs in zip(log_p, log_q, strict=True)]
        values = tuple(
            math.fsum(log_ratios[row : row + count]) / count
            for row in range(0, len(log_ratios), count)
        )
        return [Measurement(metric=METRIC.name, values=values)]


KL = EvaluatorOffer(
    name="kl",
    summary="KL divergence of the model from another model, in nats per answer",
    config=KlOptions,
    build=KlDivergence,
    metrics=(METRIC,),
    needs=("torch>=2.11", "transformers>=5.17"),
    model_count=lambda options: 2,
    answer_limit=lambda options, records: options.max_new_tokens,
)

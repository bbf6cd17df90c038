"""The ``length`` evaluator: measure how much longer answers are than another model's."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from tunesmith.contracts import Measurement, RunContext, TextModel
from tunesmith.offers import EvaluatorOffer, Metric
from tunesmith.records import Record, last_exchange
from tunesmith_torch.compare.other_model import (
    ComparingEvaluator,
    ComparisonOptions,
    open_comparison_model,
)

METRIC = Metric(name="length-change", higher_is_better=False, unit="tokens", is_descriptive=True)


class LengthOptions(ComparisonOptions):
    """Options of ``length``: the other model, and the maximum answer length."""

    max_new_tokens: int = Field(
        128, ge=1, description="Maximum tokens per answer, for both models."
    )


class LengthChange(ComparingEvaluator):
    """Measures how many tokens longer greedy answers are than the other model's answers."""

    def __init__(self, options: LengthOptions) -> None:
        self.options = options

    def compare(
        self, model: TextModel, records: Sequence[Record], run: RunContext | None
    ) -> Sequence[Measurement]:
        """Return one value per record, or an empty list until the other model has been trained."""
        other = open_comparison_model(self.options, run)
        if other is None:
            return []
        prompts = [last_exchange(record)[0] for record in records]
        limit = self.options.max_new_tokens
        ours, theirs = (opened.generate(prompts, limit) for opened in (model, other))
        pairs = zip(ours, theirs, strict=True)
        values = tuple(float(mine.tokens - other.tokens) for mine, other in pairs)
        outputs = tuple(answer.text for answer in ours)
        return [Measurement(metric=METRIC.name, values=values, outputs=outputs)]


LENGTH = EvaluatorOffer(
    name="length",
    summary="how many tokens longer the answers are than another model's",
    config=LengthOptions,
    build=LengthChange,
    metrics=(METRIC,),
    needs=("torch>=2.11", "transformers>=5.17"),
    model_count=lambda options: 2,
    answer_limit=lambda options, records: options.max_new_tokens,
)

"""The offer and the measurement: by how many tokens answers became longer."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from tunesmith.contracts import Evaluator, Measurement, RunSoFar, TextModel
from tunesmith.offers import EvaluatorOffer, Metric
from tunesmith.records import Record, last_exchange
from tunesmith_torch.compare.other_model import Comparing, RivalOptions, rival

METRIC = Metric(name="length_change", higher_is_better=False, unit="tokens", describes=True)


class LengthOptions(RivalOptions):
    """Than whose answers."""

    tokens: int = Field(128, ge=1, description="Longest answer of either model, in tokens.")


class LengthChange(Comparing):
    """Tokens of the model's greedy answer minus those of the other one's."""

    def __init__(self, options: LengthOptions) -> None:
        self.options = options

    def against(
        self, model: TextModel, records: Sequence[Record], run: RunSoFar | None
    ) -> Sequence[Measurement]:
        """One value for each record; nothing before what is needed is there."""
        other = rival(self.options, run)
        if other is None:
            return []
        prompts = [last_exchange(record)[0] for record in records]
        ours, theirs = (asked.generate(prompts, self.options.tokens) for asked in (model, other))
        both = zip(ours, theirs, strict=True)
        values = tuple(float(long.tokens - short.tokens) for long, short in both)
        outputs = tuple(answer.text for answer in ours)
        return [Measurement(metric=METRIC.name, values=values, outputs=outputs)]


def build(options: LengthOptions) -> Evaluator:
    """The evaluator."""
    return LengthChange(options)


LENGTH = EvaluatorOffer(
    name="length",
    summary="how many tokens longer answers are than those of another model",
    config=LengthOptions,
    build=build,
    metrics=(METRIC,),
    needs=("torch>=2.11", "transformers>=5.17"),
    models=lambda options: 2,
)

"""The ``forgetting`` evaluator: measure how much worse a tuned model predicts general text.

Training on a narrow task can degrade a model's general abilities. Scores on the task do not show
this, but the loss on unrelated texts does. It is cheap to measure, and comparing both models text
by text keeps its variance low.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import Field

from tunesmith.contracts import Finding, Measurement, RunContext, TextModel
from tunesmith.data.units import RecordsByUnit
from tunesmith.errors import DataError
from tunesmith.offers import EvaluatorOffer, Metric
from tunesmith.options import DataPath
from tunesmith.plan import Plan
from tunesmith.records import Record
from tunesmith_evidence.number_text import format_difference
from tunesmith_evidence.side_effects.text_losses import measure_losses
from tunesmith_evidence.side_effects.text_rows import read_text_rows
from tunesmith_evidence.statistics.non_inferiority import NonInferiority, compare_with_margin
from tunesmith_torch.compare.other_model import (
    ComparingEvaluator,
    ComparisonOptions,
    open_tuned_comparison_model,
)

METRIC = Metric(
    name="forgetting",
    higher_is_better=False,
    unit="nats/token",
    bounds=(-math.inf, math.inf),
    is_descriptive=True,
)
FEW_TEXTS = 100
UNBOUNDED = (-math.inf, math.inf)


class ForgettingOptions(ComparisonOptions):
    """Options of ``forgetting``: the general texts, and the acceptable increase in loss."""

    texts: DataPath = Field(
        description=(
            "JSONL file with at least 250 general texts, unrelated to the task, in the column "
            '"text". You have to choose them, because only you know what the model must retain.'
        ),
    )
    margin: float = Field(
        0.05,
        gt=0,
        description=(
            "Acceptable increase in loss, in nats per token. 0.05 is about 5 % more perplexity."
        ),
    )


class Forgetting(ComparingEvaluator):
    """Measures the loss per token on general texts, tuned minus base, weighted by token counts."""

    def __init__(self, options: ForgettingOptions) -> None:
        self.options = options

    def compare(
        self, model: TextModel, records: Sequence[Record], run: RunContext | None
    ) -> Sequence[Measurement]:
        """Return one value per text, or an empty list if there is no tuned model yet.

        Raises:
            DataError: the file with texts cannot be read, or is invalid.
        """
        from tunesmith_data.splits import cluster_records

        read = read_text_rows(Path(self.options.texts), ["text"])
        texts = [*RecordsByUnit(read, cluster_records)]
        other = open_tuned_comparison_model(self.options, run)
        if other is None:
            return []
        tuned, weights = measure_losses(model, texts)
        base, _ = measure_losses(other, texts)
        found = compare_with_margin(
            base,
            tuned,
            self.options.margin,
            weights=weights,
            groups=[record.group for record in texts],
            bounds=UNBOUNDED,
        )
        values = tuple(after - before for before, after in zip(base, tuned, strict=True))
        details = {**found.to_json(), "finding": describe(found)}
        return [
            Measurement(
                metric=METRIC.name, values=values, weights=weights, details=details, records=texts
            )
        ]


def describe(found: NonInferiority) -> str:
    """Return whether the model forgets, with the change of the loss, as a sentence."""
    figures = (
        f"the loss on {found.n} general texts changed by {format_difference(found.value)} "
        f"nats per token, {found.bounds}"
    )
    return found.describe("forgets", "does not forget", figures, "texts")


def review(plan: Plan) -> Iterator[Finding]:
    """Yield an error if the file with texts cannot be used, and a warning if it is small."""
    for evaluator in plan.evaluators:
        if not isinstance(evaluator.config, ForgettingOptions):
            continue
        where = f"evaluators.{evaluator.id}.texts"
        try:
            count = len(read_text_rows(Path(evaluator.config.texts), ["text"]))
        except DataError as error:
            yield Finding(level="error", where=where, message=error.message, hint=error.hint or "")
            continue
        if count < FEW_TEXTS:
            message = f"{count} general texts may be too few for a conclusive result"
            hint = "use 250 texts or more"
            yield Finding(level="warning", where=where, message=message, hint=hint)


FORGETTING = EvaluatorOffer(
    name="forgetting",
    summary="rise of the loss on general texts, tuned minus base, in nats per token",
    config=ForgettingOptions,
    build=Forgetting,
    metrics=(METRIC,),
    needs=("torch>=2.11", "transformers>=5.17"),
    model_count=lambda options: 2,
)

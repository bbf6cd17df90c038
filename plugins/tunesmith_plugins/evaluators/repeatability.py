"""The ``repeatability`` evaluator: measure the noise floor by answering the same rows twice.

Greedy answers should be the same both times. If rounding errors change them, scores have a noise
floor, and smaller differences between models mean nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from pydantic import Field

from tunesmith.contracts import Measurement, TextModel
from tunesmith.execution.wrapped_model import CachedModel, WrappedModel
from tunesmith.offers import EvaluatorOffer, Metric
from tunesmith.options import Options
from tunesmith.records import Prompt, Record, last_exchange

METRIC = Metric(name="repeatable", higher_is_better=True, bounds=(0, 1), is_descriptive=True)


class RepeatabilityOptions(Options):
    """Options of ``repeatability``: how many rows to answer twice, and the answer length."""

    rows: int = Field(
        60, ge=1, description="Maximum number of rows to answer twice, evenly spread."
    )
    max_new_tokens: int = Field(64, ge=1, description="Maximum tokens per answer.")


@dataclass(frozen=True)
class Repeatability:
    """Scores 1 for a record whose greedy answer is the same in a second pass, otherwise 0.

    The second pass takes every other row in reverse order, then the rest, so each row is batched
    with different rows. Rows that are not answered twice have weight 0.
    """

    options: RepeatabilityOptions
    chosen: frozenset[Prompt] | None = None
    """Prompts to answer twice, or None to choose them from the measured rows."""

    def prepare(self, references: Sequence[Record]) -> Self:
        """Return an evaluator that answers the prompts of some of these references twice."""
        step = -(-len(references) // self.options.rows) or 1
        rows = range(0, len(references), step)
        return replace(self, chosen=frozenset(last_exchange(references[row])[0] for row in rows))

    def measure(self, model: TextModel, records: Sequence[Record]) -> Sequence[Measurement]:
        """Return one value per record, or an empty list if no record is answered twice."""
        chosen = self.prepare(records).chosen if self.chosen is None else self.chosen
        model = disable_cache(model)
        prompts = {row: last_exchange(record)[0] for row, record in enumerate(records)}
        prompts = {row: prompt for row, prompt in prompts.items() if prompt in (chosen or ())}
        if records and not prompts:
            return []
        rows = [*prompts]
        answers = []
        for order in (rows, rows[::-2], rows[-2::-2]):
            found = model.generate([prompts[row] for row in order], self.options.max_new_tokens)
            answers.append({row: a.text for row, a in zip(order, found, strict=True)})
        first, second = answers[0], answers[1] | answers[2]
        values = tuple(float(first.get(row) == second.get(row)) for row in range(len(records)))
        weights = tuple(float(row in prompts) for row in range(len(records)))
        return [Measurement(metric=METRIC.name, values=values, weights=weights)]


def disable_cache(model: TextModel) -> TextModel:
    """Return the model without its cache of earlier answers."""
    if isinstance(model, CachedModel):
        return disable_cache(model.model)
    if isinstance(model, WrappedModel):
        return replace(model, model=disable_cache(model.model))
    return model


REPEATABILITY = EvaluatorOffer(
    name="repeatability",
    summary="share of greedy answers that stay the same when batches are composed differently",
    config=RepeatabilityOptions,
    build=Repeatability,
    metrics=(METRIC,),
    answer_limit=lambda options, records: options.max_new_tokens,
)

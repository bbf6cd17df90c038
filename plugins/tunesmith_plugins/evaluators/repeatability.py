"""Evaluator ``repeatability``: the noise floor, by a second pass over the same rows.

Greedy answers should be the same. Where rounding makes them differ, scores have a noise floor, and
a difference between models that is as small says nothing.
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
    """Options of ``repeatability``."""

    rows: int = Field(
        60, ge=1, description="Most rows that are answered twice, spread evenly over all."
    )
    max_new_tokens: int = Field(64, ge=1, description="Most tokens of an answer.")


@dataclass(frozen=True)
class Repeatability:
    """Scores 1 for a record whose greedy answer is the same in a second pass, else 0.

    The second pass has the rows backwards, in two halves of every other row, so that each row has
    other neighbors in its batch. Rows that are not answered twice have the weight 0.
    """

    options: RepeatabilityOptions
    chosen: frozenset[Prompt] | None = None
    """Prompts of the rows that are answered twice; None: chosen from the rows to measure."""

    def prepare(self, references: Sequence[Record]) -> Self:
        """Return the evaluator with the rows of these that are answered twice."""
        step = -(-len(references) // self.options.rows) or 1
        rows = range(0, len(references), step)
        return replace(self, chosen=frozenset(last_exchange(references[row])[0] for row in rows))

    def measure(self, model: TextModel, records: Sequence[Record]) -> Sequence[Measurement]:
        """Return one value for each record; nothing if none of them is answered twice."""
        chosen = self.prepare(records).chosen if self.chosen is None else self.chosen
        model = without_cache(model)
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


def without_cache(model: TextModel) -> TextModel:
    """Return a model that computes everything anew."""
    if isinstance(model, CachedModel):
        return without_cache(model.model)
    if isinstance(model, WrappedModel):
        return replace(model, model=without_cache(model.model))
    return model


REPEATABILITY = EvaluatorOffer(
    name="repeatability",
    summary="share of greedy answers that are the same in another order of batches",
    config=RepeatabilityOptions,
    build=Repeatability,
    metrics=(METRIC,),
    answer_limit=lambda options, records: options.max_new_tokens,
)

"""Evaluator ``constrained-json``: answers that must be JSON objects like those of the data.

Beside ``exact-match`` it separates two reasons for wrong answers: a model that does not know the
task gives wrong values here too; one that only does not keep to the format gives right ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from pydantic import Field

from tunesmith.contracts import Measurement, TextModel
from tunesmith.errors import UsageError
from tunesmith.offers import EvaluatorOffer, Metric
from tunesmith.options import Options
from tunesmith.records import Chat, Completion, Record, last_exchange

METRIC_NAME = "constrained-json"


class ConstrainedJsonOptions(Options):
    """Options of ``constrained-json``."""

    max_new_tokens: int = Field(
        256, ge=1, description="Most tokens of an answer; one that is cut off is wrong."
    )


@dataclass(frozen=True)
class ConstrainedJson:
    """Scores 1 for a record if the answer has the right keys and values, else 0.

    The answers are constrained to the JSON schema of the test answers: their keys, types, and
    values where a field has few.
    """

    options: ConstrainedJsonOptions
    references: tuple[str, ...] | None = None
    """Answers that give the schema; None: those of the rows that are measured."""

    def prepare(self, references: Sequence[Record]) -> Self:
        """Return the evaluator with the schema of these references."""
        return replace(self, references=_list_answers(references))

    def measure(self, model: TextModel, records: Sequence[Record]) -> Sequence[Measurement]:
        """Generate an answer for each record, and compare its fields with the reference.

        Raises:
            UsageError: no answer is a JSON object, or the model cannot be constrained.
        """
        from tunesmith_evidence.prompting.json_model import constrain_to_schema
        from tunesmith_evidence.tasks.json_answers import (
            find_style,
            have_equal_values,
            parse_object,
        )
        from tunesmith_evidence.tasks.json_schema import derive_schema

        if not records:
            return [Measurement(metric=METRIC_NAME, values=())]
        answers = _list_answers(records) if self.references is None else self.references
        schema = derive_schema(answers)
        if schema is None:
            raise UsageError("constrained-json: no answer of the test rows is a JSON object")
        exchanges = [last_exchange(record) for record in records]
        constrained = constrain_to_schema(model, schema, find_style(answers))
        generated = constrained.generate([p for p, _ in exchanges], self.options.max_new_tokens)
        outputs = tuple(generation.text for generation in generated)
        pairs = [
            (parse_object(output), parse_object(answer.text))
            for output, (_, answer) in zip(outputs, exchanges, strict=True)
        ]
        values = tuple(
            float(given is not None and right is not None and have_equal_values(given, right))
            for given, right in pairs
        )
        return [Measurement(metric=METRIC_NAME, values=values, outputs=outputs)]


def _list_answers(records: Sequence[Record]) -> tuple[str, ...]:
    return tuple(last_exchange(record)[1].text for record in records)


CONSTRAINED_JSON = EvaluatorOffer(
    name="constrained-json",
    summary="share of JSON answers with the right values if they are constrained to a schema",
    config=ConstrainedJsonOptions,
    build=ConstrainedJson,
    metrics=(Metric(name=METRIC_NAME, higher_is_better=True, bounds=(0, 1)),),
    accepts=frozenset({Chat, Completion}),
    needs=("llguidance>=1.3",),
    answer_limit=lambda options, records: options.max_new_tokens,
)

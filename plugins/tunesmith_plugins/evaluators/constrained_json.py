"""The ``constrained-json`` evaluator: measure correct answers if decoding must follow a schema.

Together with ``exact-match``, it separates two causes of incorrect answers. A model that has not
learned the task gives wrong values here as well. A model that only misses the format does not.
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
    """Options of ``constrained-json``: the maximum answer length."""

    max_new_tokens: int = Field(
        256,
        ge=1,
        description="Maximum tokens per answer; an answer that is cut off counts as wrong.",
    )


@dataclass(frozen=True)
class ConstrainedJson:
    """Scores 1 for a record if the answer has the right keys and values, otherwise 0.

    Answers are constrained to a JSON schema derived from the test answers: their keys, their types,
    and, for fields with few distinct values, these values.
    """

    options: ConstrainedJsonOptions
    references: tuple[str, ...] | None = None
    """Answers to derive the schema from, or None for the references of the measured rows."""

    def prepare(self, references: Sequence[Record]) -> Self:
        """Return an evaluator whose schema is derived from these references."""
        return replace(self, references=_list_answers(references))

    def measure(self, model: TextModel, records: Sequence[Record]) -> Sequence[Measurement]:
        """Generate an answer for each record and compare its fields with the reference.

        Raises:
            UsageError: no reference is a JSON object, or the model does not support constrained
                decoding.
        """
        from tunesmith_evidence.prompting.json_model import constrain_to_schema
        from tunesmith_evidence.tasks.json_answers import (
            find_json_style,
            have_equal_values,
            parse_json_object,
        )
        from tunesmith_evidence.tasks.json_schema import derive_schema

        if not records:
            return [Measurement(metric=METRIC_NAME, values=())]
        answers = _list_answers(records) if self.references is None else self.references
        schema = derive_schema(answers)
        if schema is None:
            raise UsageError(
                "constrained-json: none of the test rows has a JSON object as its answer",
                hint="use another evaluator, such as exact-match",
            )
        exchanges = [last_exchange(record) for record in records]
        constrained = constrain_to_schema(model, schema, find_json_style(answers))
        generated = constrained.generate([p for p, _ in exchanges], self.options.max_new_tokens)
        outputs = tuple(generation.text for generation in generated)
        pairs = [
            (parse_json_object(output), parse_json_object(answer.text))
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
    summary="share of correct JSON answers when generation is constrained to a schema",
    config=ConstrainedJsonOptions,
    build=ConstrainedJson,
    metrics=(Metric(name=METRIC_NAME, higher_is_better=True, bounds=(0, 1)),),
    accepts=frozenset({Chat, Completion}),
    needs=("llguidance>=1.3",),
    answer_limit=lambda options, records: options.max_new_tokens,
)

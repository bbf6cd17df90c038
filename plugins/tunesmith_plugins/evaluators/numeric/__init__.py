"""The ``numeric`` evaluator: measure the share of answers that end with the correct number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import ClassVar, Literal, Self

from pydantic import Field

from tunesmith.contracts import Measurement, TextModel
from tunesmith.errors import DataError
from tunesmith.offers import EvaluatorOffer, Metric
from tunesmith.records import Chat, Completion, Record, last_exchange
from tunesmith_evidence.answers.generate import (
    AnswerOptions,
    generate_answers,
    read_references,
)
from tunesmith_plugins.evaluators.numeric.numbers import find_number

METRIC_NAME = "numeric-match"
MIN_SHARE = 0.9
"""The evaluator is used by default if at least this share of answers ends like `#### 42`."""


class NumericOptions(AnswerOptions):
    """Options of ``numeric``: the number format, and the tolerance."""

    extra_tokens: ClassVar[int] = 32
    """Extra tokens for words around the number, because references may be bare numbers."""

    decimal_separator: Literal[".", ","] = Field(
        ".", description="The decimal separator; the other character separates thousands."
    )
    tolerance: float = Field(
        0.0,
        ge=0,
        description="Largest absolute difference from the reference that counts as correct.",
    )
    relative_tolerance: float = Field(
        0.0,
        ge=0,
        le=1,
        description=(
            "Largest difference that counts as correct, as a fraction of the reference. The "
            "larger of the two tolerances applies."
        ),
    )


@dataclass(frozen=True)
class Numeric:
    """Scores 1 for a record if the answer ends with the reference number, otherwise 0."""

    options: NumericOptions
    limit: int | None = None
    """Maximum tokens per answer, or None to derive it from the measured rows."""

    def prepare(self, references: Sequence[Record]) -> Self:
        """Return an evaluator with the token limit for these references."""
        return replace(self, limit=self.options.answer_limit(references))

    def measure(self, model: TextModel, records: Sequence[Record]) -> Sequence[Measurement]:
        """Generate an answer for each record and compare its number with the reference.

        Raises:
            DataError: an answer calls a tool, or a reference has no number.
        """
        expected = []
        references = read_references(records, "numeric")
        for record, reference in zip(records, references, strict=True):
            number = find_number(reference, self.options.decimal_separator)
            if number is None:
                separator = self.options.decimal_separator
                message = "the reference answer contains no number"
                if any(map(str.isdecimal, reference)):
                    message = f'the reference is no number with decimal_separator = "{separator}"'
                hint = "correct the row, set decimal_separator, or use another evaluator"
                raise DataError(record.source, message, hint=hint)
            expected.append(number)
        limit = self.limit or self.options.answer_limit(records)
        answers = generate_answers(model, records, limit)
        values = tuple(
            float(self._is_right(answer, number))
            for answer, number in zip(answers, expected, strict=True)
        )
        return [Measurement(metric=METRIC_NAME, values=values, outputs=answers)]

    def _is_right(self, answer: str, expected: Decimal) -> bool:
        options = self.options
        found = find_number(answer, options.decimal_separator)
        allowed = max(
            Decimal(str(options.tolerance)),
            Decimal(str(options.relative_tolerance)) * abs(expected),
        )
        return found is not None and abs(found - expected) <= allowed


def have_marked_numbers(records: Sequence[Record]) -> bool:
    """Return True if all answers have a number, and 90 % of them one after `####` (GSM8K)."""
    if not records or not all(isinstance(record, Chat | Completion) for record in records):
        return False
    answers = [last_exchange(record)[1] for record in records]
    texts = [answer.text for answer in answers if not answer.tool_calls]
    numbers = sum("####" in text and find_number(text) is not None for text in texts)
    return numbers == len(records) or (
        # The evaluator rejects rows whose reference has no number.
        numbers >= MIN_SHARE * len(records)
        and len(texts) == len(records)
        and all(find_number(text) is not None for text in texts)
    )


NUMERIC = EvaluatorOffer(
    name="numeric",
    summary="share of answers that end with the correct number, such as `#### 1,234`",
    config=NumericOptions,
    build=Numeric,
    metrics=(Metric(name=METRIC_NAME, higher_is_better=True, bounds=(0, 1)),),
    accepts=frozenset({Chat, Completion}),
    default_for=have_marked_numbers,
    generates=True,
    reads_media=True,
    answer_limit=NumericOptions.answer_limit,
)

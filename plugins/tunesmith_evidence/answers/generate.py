"""Generate the answers that evaluators compare with reference answers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from tunesmith.contracts import TextModel
from tunesmith.errors import DataError
from tunesmith.options import Options
from tunesmith.records import Message, Record, last_exchange
from tunesmith_evidence.answers.normalize import TextNormalizer

__all__ = [
    "MAX_NEW_TOKENS",
    "AnswerOptions",
    "ComparedAnswerOptions",
    "format_reasoning_and_answer",
    "generate_answers",
    "read_references",
    "resolve_max_new_tokens",
]

END_OF_TURN_TOKENS = 8
"""Number of tokens to allow beyond the longest reference, for the end of the turn."""
MAX_NEW_TOKENS = 512
"""Upper bound of the automatic limit for tokens per answer."""


class AnswerOptions(Options):
    """Options of evaluators that generate an answer for each record."""

    max_new_tokens: Literal["auto"] | Annotated[int, Field(ge=1, le=8192)] = Field(
        "auto",
        description=(
            "Maximum tokens per answer. `auto`: enough for the longest reference answer, but at "
            "most 512."
        ),
    )
    extra_tokens: ClassVar[int] = 0
    """Extra tokens that an automatic limit adds to the longest reference."""

    def answer_limit(self, records: Sequence[Record]) -> int:
        """Return the maximum number of tokens per answer for these records."""
        return resolve_max_new_tokens(self.max_new_tokens, records, extra_tokens=self.extra_tokens)


class ComparedAnswerOptions(AnswerOptions):
    """Options of evaluators that compare an answer's text with the reference."""

    ignore_case: bool = Field(False, description="Treat upper and lower case as equal.")
    ignore_punctuation: bool = Field(
        False,
        description=(
            "Ignore punctuation after the answer, and quotes, brackets and Markdown around it."
        ),
    )
    ignore_lead_in: bool = Field(
        False,
        description="Ignore a phrase such as `The answer is` or `Category:` before the answer.",
    )
    extract: str | None = Field(
        None,
        min_length=1,
        description=(
            "Regular expression for the part of the answer and of the reference to compare. The "
            "last match counts, or its first group if there is one. For `#### 42`: '#### "
            "*(\\S+)'."
        ),
    )

    @field_validator("extract")
    @classmethod
    def _compile_extract(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"not a valid regular expression: {error}") from None
        return value

    def build_normalizer(self) -> TextNormalizer:
        """Return the normalizer for answers and references."""
        return TextNormalizer(
            ignore_case=self.ignore_case,
            ignore_punctuation=self.ignore_punctuation,
            ignore_lead_in=self.ignore_lead_in,
            extract=re.compile(self.extract) if self.extract else None,
        )


def read_references(records: Sequence[Record], evaluator: str) -> list[str]:
    """Return the text of each record's last answer, which a model has to generate.

    Raises:
        DataError: an answer calls a tool.
    """
    answers = [last_exchange(record)[1] for record in records]
    for record, answer in zip(records, answers, strict=True):
        if answer.tool_calls:
            hint = f"use the `tool-call` evaluator instead of {evaluator}"
            raise DataError(
                record.source,
                f"the evaluator {evaluator} cannot compare tool calls",
                hint=hint,
            )
    return [answer.text for answer in answers]


def generate_answers(
    model: TextModel,
    records: Sequence[Record],
    max_new_tokens: Literal["auto"] | int = "auto",
    *,
    extra_tokens: int = 0,
) -> tuple[str, ...]:
    """Generate each record's last answer with at most :func:`resolve_max_new_tokens` tokens."""
    limit = resolve_max_new_tokens(max_new_tokens, records, extra_tokens=extra_tokens)
    generated = model.generate([last_exchange(record)[0] for record in records], limit)
    return tuple(generation.text for generation in generated)


def resolve_max_new_tokens(
    max_new_tokens: Literal["auto"] | int, references: Sequence[Record], *, extra_tokens: int = 0
) -> int:
    """Return the maximum number of tokens per answer.

    ``auto`` fits the longest reference plus ``extra_tokens``, up to 512 tokens. All evaluators of a
    run then request the same answers, so the model generates them only once. An evaluator's
    ``prepare`` receives the references of all test rows, so the limit does not depend on which
    subset is evaluated.
    """
    if isinstance(max_new_tokens, int):
        return max_new_tokens
    answers = [format_reasoning_and_answer(last_exchange(record)[1]) for record in references]
    return min(choose_max_new_tokens(answers) + extra_tokens, MAX_NEW_TOKENS)


def format_reasoning_and_answer(answer: Message) -> str:
    """Return the text that a model has to generate for an answer, including its reasoning."""
    return (
        f"<think>\n{answer.reasoning}\n</think>\n\n{answer.text}"
        if answer.reasoning
        else answer.text
    )


def choose_max_new_tokens(references: Sequence[str]) -> int:
    """Return a token limit that is large enough for the longest reference, but at most 512.

    The limit is the reference's length in UTF-8 bytes plus a few tokens for the end of the turn. No
    common tokenizer produces more tokens than bytes, so this limit only cuts off answers that are
    longer than the reference.
    """
    longest = max((len(reference.encode()) for reference in references), default=0)
    return min(longest + END_OF_TURN_TOKENS, MAX_NEW_TOKENS)

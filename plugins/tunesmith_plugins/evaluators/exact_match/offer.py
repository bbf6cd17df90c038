"""Offer of ``exact-match``: its options, and the records it is used for by default."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import ClassVar

from pydantic import Field, field_validator

from tunesmith.contracts import Evaluator
from tunesmith.offers import EvaluatorOffer, Metric
from tunesmith.records import (
    Chat,
    Completion,
    Preference,
    Record,
    Text,
    UnpairedPreference,
    last_exchange,
)
from tunesmith_evidence.answers.generate import AnswerOptions
from tunesmith_evidence.answers.normalize import TextNormalizer
from tunesmith_plugins.evaluators.exact_match.evaluator import METRIC_NAME, ExactMatch

SHORT_ANSWER_CHARACTERS = 64
"""Longest answer that a model can be expected to reproduce word for word."""
MIN_SHORT_SHARE = 0.9
"""Share of short answers from which on the evaluator is used by default."""


class ExactMatchOptions(AnswerOptions):
    """Options: how answers are compared, and how long an answer may be."""

    EARLIER: ClassVar[Mapping[str, str]] = {
        "max_tokens": "max_new_tokens",
        "max_length": "max_new_tokens",
    }

    ignore_case: bool = Field(False, description="Treat upper and lower case as equal.")
    ignore_punctuation: bool = Field(
        False, description="Ignore punctuation and quotes before and behind the answer."
    )
    ignore_lead_in: bool = Field(
        False, description="Ignore a phrase such as `The answer is` or `Category:` before it."
    )
    extract: str | None = Field(
        None,
        min_length=1,
        description=(
            "Regular expression for the part of answer and reference that is compared: its last "
            "match, or the first group of that match. For `#### 42`: '#### *(\\S+)'."
        ),
    )

    @field_validator("extract")
    @classmethod
    def _compile_extract(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        return value


def build(options: ExactMatchOptions) -> Evaluator:
    """Build the evaluator."""
    extract = re.compile(options.extract) if options.extract else None
    return ExactMatch(
        normalizer=TextNormalizer(
            ignore_case=options.ignore_case,
            ignore_punctuation=options.ignore_punctuation,
            ignore_lead_in=options.ignore_lead_in,
            extract=extract,
        ),
        max_new_tokens=options.max_new_tokens,
    )


def have_short_answers(records: Sequence[Record]) -> bool:
    """Return True if at least nine in ten last answers are short."""
    pairs = Text | Preference | UnpairedPreference
    if not records or any(isinstance(record, pairs) for record in records):
        return False
    if any(last_exchange(record)[1].tool_calls for record in records):
        return False
    short = sum(len(last_exchange(record)[1].text) <= SHORT_ANSWER_CHARACTERS for record in records)
    return short >= MIN_SHORT_SHARE * len(records)


EXACT_MATCH = EvaluatorOffer(
    name="exact-match",
    summary="share of answers that equal the reference answer, white space ignored",
    config=ExactMatchOptions,
    build=build,
    metrics=(Metric(name=METRIC_NAME, higher_is_better=True, bounds=(0, 1)),),
    accepts=frozenset({Chat, Completion, Preference, Text}),
    default_for=have_short_answers,
    generates=True,
)

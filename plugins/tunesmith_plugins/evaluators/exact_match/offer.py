"""The offer: options of ``[[evaluators]] use = "exact-match"``, and when it is used unasked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, field_validator

from tunesmith.contracts import Evaluator
from tunesmith.offers import EvaluatorOffer, Metric
from tunesmith.options import Options
from tunesmith.records import Preference, Record, Text, last_exchange
from tunesmith_plugins.evaluators.exact_match.match import METRIC_NAME, ExactMatch, Normalisation

SHORT_ANSWER = 64
SHORT_SHARE = 0.9


class ExactMatchOptions(Options):
    """When two answers count as the same, and how much a model may say."""

    ignore_case: bool = Field(False, description="Whether upper and lower case are the same.")
    extract: str | None = Field(
        None,
        min_length=1,
        description=(
            "Regular expression that finds what to compare, in answer and reference alike: its "
            "last match, or the first group of it. For `#### 42`: '#### *(\\S+)'."
        ),
    )
    max_length: Literal["auto"] | Annotated[int, Field(ge=1, le=8192)] = Field(
        "auto",
        description=(
            "Most tokens that an answer may take; auto: enough for the longest reference, at "
            "most 512."
        ),
    )

    @field_validator("extract")
    @classmethod
    def _is_an_expression(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        return value


def build(options: ExactMatchOptions) -> Evaluator:
    """The evaluator."""
    extract = re.compile(options.extract) if options.extract else None
    return ExactMatch(
        normalisation=Normalisation(ignore_case=options.ignore_case, extract=extract),
        max_length=None if options.max_length == "auto" else options.max_length,
    )


def suits(records: Sequence[Record]) -> bool:
    """Nine in ten final answers are short enough to be given word for word."""
    if not records or any(isinstance(record, Text | Preference) for record in records):
        return False
    short = sum(len(last_exchange(record)[1]) <= SHORT_ANSWER for record in records)
    return short >= SHORT_SHARE * len(records)


EXACT_MATCH = EvaluatorOffer(
    name="exact-match",
    summary="share of answers that are the reference, white space apart",
    config=ExactMatchOptions,
    build=build,
    metrics=(Metric(name=METRIC_NAME, higher_is_better=True),),
    suits=suits,
)

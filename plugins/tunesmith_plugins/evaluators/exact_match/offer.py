"""Offer of ``exact-match``: its options, and the records it is used for by default."""

from __future__ import annotations

from collections.abc import Sequence

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
from tunesmith_evidence.answers.generate import ComparedAnswerOptions
from tunesmith_plugins.evaluators.exact_match.evaluator import METRIC_NAME, ExactMatch

SHORT_ANSWER_CHARACTERS = 64
"""Longest answer that a model can be expected to reproduce word for word."""
MIN_SHORT_SHARE = 0.9
"""Share of short answers from which on the evaluator is used by default."""


class ExactMatchOptions(ComparedAnswerOptions):
    """Options: how answers are compared, and how long an answer may be."""


def build(options: ExactMatchOptions) -> Evaluator:
    """Build the evaluator."""
    return ExactMatch(
        normalizer=options.build_normalizer(),
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
    answer_limit=ExactMatchOptions.answer_limit,
)

"""The ``exact-match`` evaluator: measure the share of answers that equal the reference answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

from tunesmith.contracts import Evaluator, Measurement, TextModel
from tunesmith.errors import DataError
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
from tunesmith_evidence.answers.generate import (
    ComparedAnswerOptions,
    generate_answers,
    read_references,
    resolve_max_new_tokens,
)
from tunesmith_evidence.answers.normalize import TextNormalizer
from tunesmith_evidence.tasks.json_answers import (
    NO_JSON,
    are_json_values_equal,
    parse_json_answer,
)

METRIC_NAME = "exact-match"


@dataclass(frozen=True, kw_only=True)
class ExactMatch:
    """Scores 1 if the generated answer equals the record's last answer, otherwise 0.

    Both are normalized before they are compared. Objects and lists in JSON are equal if their
    values are, because a prompt cannot know the spacing and the order of keys that training
    teaches.
    """

    normalizer: TextNormalizer
    max_new_tokens: Literal["auto"] | int = "auto"

    def prepare(self, references: Sequence[Record]) -> Self:
        """Return an evaluator with the token limit for these references."""
        return replace(self, max_new_tokens=resolve_max_new_tokens(self.max_new_tokens, references))

    def measure(self, model: TextModel, records: Sequence[Record]) -> Sequence[Measurement]:
        """Generate the last answer of every record and compare it with the reference.

        Raises:
            DataError: an answer calls a tool, or ``extract`` finds nothing in a reference.
        """
        references = read_references(records, METRIC_NAME)
        for record, reference in zip(records, references, strict=True):
            if self.normalizer.find(reference) is None:
                raise DataError(
                    record.source,
                    "the pattern `extract` does not match the reference answer",
                    hint="correct the pattern or this answer",
                )
        answers = generate_answers(model, records, self.max_new_tokens)
        pairs = zip(answers, references, strict=True)
        values = tuple(float(self._are_equal(answer, reference)) for answer, reference in pairs)
        return [Measurement(metric=METRIC_NAME, values=values, outputs=answers)]

    def _are_equal(self, answer: str, reference: str) -> bool:
        if self.normalizer.normalize(answer) == self.normalizer.normalize(reference):
            return True
        expected = self._parse_json(reference)
        is_structured = isinstance(expected, dict | list)
        return is_structured and are_json_values_equal(self._parse_json(answer), expected)

    def _parse_json(self, text: str) -> object:
        found = self.normalizer.find(text)
        return NO_JSON if found is None else parse_json_answer(self.normalizer.fold(found))


SHORT_ANSWER_CHARACTERS = 64
"""Length of the longest answers that a model can be expected to reproduce verbatim."""
MIN_SHORT_SHARE = 0.9
"""The evaluator is used by default if at least this share of answers is short."""


class ExactMatchOptions(ComparedAnswerOptions):
    """Options of ``exact-match``: how to compare answers, and their maximum length."""


def build(options: ExactMatchOptions) -> Evaluator:
    """Create the evaluator from its options."""
    return ExactMatch(
        normalizer=options.build_normalizer(),
        max_new_tokens=options.max_new_tokens,
    )


def have_short_answers(records: Sequence[Record]) -> bool:
    """Return True if at least 90 % of the last answers are short."""
    pairs = Text | Preference | UnpairedPreference
    if not records or any(isinstance(record, pairs) for record in records):
        return False
    if any(last_exchange(record)[1].tool_calls for record in records):
        return False
    short = sum(len(last_exchange(record)[1].text) <= SHORT_ANSWER_CHARACTERS for record in records)
    return short >= MIN_SHORT_SHARE * len(records)


EXACT_MATCH = EvaluatorOffer(
    name="exact-match",
    summary="share of answers that equal the reference answer, in any spacing or JSON style",
    config=ExactMatchOptions,
    build=build,
    reads_media=True,
    metrics=(Metric(name=METRIC_NAME, higher_is_better=True, bounds=(0, 1)),),
    accepts=frozenset({Chat, Completion, Preference, Text}),
    default_for=have_short_answers,
    generates=True,
    answer_limit=ExactMatchOptions.answer_limit,
)

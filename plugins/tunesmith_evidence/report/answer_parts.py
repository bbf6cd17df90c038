"""Scores of the parts of answers: the fields of JSON objects, and pairs of confused labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from json import loads

from tunesmith_evidence.answers.normalize import LabelReader
from tunesmith_evidence.report.answers import Answer, Answers
from tunesmith_evidence.tasks.json_answers import (
    JsonFields,
    are_json_values_equal,
    find_field_order,
    parse_json_object,
)
from tunesmith_evidence.tasks.kinds import detect_task_kind, list_labels

__all__ = ["Confusions", "FieldScore", "count_confusions", "score_fields"]

MAX_LABELS = 30
"""Maximum number of labels in a readable table of all pairs."""
OTHER = "(another answer)"
"""Column for answers that are none of the labels."""


@dataclass(frozen=True)
class FieldScore:
    """How often models get one field of JSON answers right."""

    name: str
    """Path of keys, such as ``order.id``."""
    rows: int
    """Number of expected answers that have the field."""
    right: Mapping[str, tuple[int, int]]
    """For each model: number of rows whose field is right, and number of rows it answered."""


@dataclass(frozen=True)
class Confusions:
    """Counts of how often a model gave one label where another label was expected."""

    labels: Sequence[str]
    """The expected labels, the most frequent first."""
    counts: Mapping[tuple[str, str], int]
    """Counts by expected and given label; the given label can be :data:`OTHER`."""

    @property
    def columns(self) -> Sequence[str]:
        """The given labels: the expected ones, and :data:`OTHER` if it occurs."""
        has_other = any(given == OTHER for _, given in self.counts)
        return [*self.labels, OTHER] if has_other else self.labels

    @property
    def worst(self) -> list[tuple[str, str, int]]:
        """The confused pairs as (expected label, given label, count), the most frequent first."""
        pairs = [(*pair, count) for pair, count in self.counts.items() if pair[0] != pair[1]]
        return sorted(pairs, key=lambda pair: (-pair[2], pair[:2]))


def score_fields(answers: Answers) -> list[FieldScore]:
    """Count correct fields by model; empty if the expected answers are not JSON objects.

    A field is correct if the answer contains it with an equal value, in any spelling. Rows whose
    answer is not a JSON object have no correct fields.
    """
    expected = [row.expected for row in answers.rows]
    if detect_task_kind(expected) != "objects":
        return []
    wanted = [parse_json_object(text) or {} for text in expected]
    given = {
        model: [
            (answer is not None, (parse_json_object(answer.text) if answer else None) or {})
            for answer in (row.find_answer(model) for row in answers.rows)
        ]
        for model in answers.models
    }
    return [
        FieldScore(
            ".".join(path),
            sum(path in fields for fields in wanted),
            {model: _count_right(path, wanted, found) for model, found in given.items()},
        )
        for path in find_field_order(wanted)
    ]


def _count_right(
    path: tuple[str, ...], wanted: Sequence[JsonFields], given: Sequence[tuple[bool, JsonFields]]
) -> tuple[int, int]:
    """Return the number of rows whose field is right, and of rows that the model answered."""
    answered = [
        (fields[path], found.get(path))
        for fields, (was_asked, found) in zip(wanted, given, strict=True)
        if was_asked and path in fields
    ]
    right = sum(
        value is not None and are_json_values_equal(loads(expected), loads(value))
        for expected, value in answered
    )
    return right, len(answered)


def count_confusions(answers: Answers, model: str) -> Confusions | None:
    """Count a model's answers by expected label; None if the answers are not a few labels."""
    rows = [(row.expected, row.find_answer(model)) for row in answers.rows]
    expected = [text for text, _ in rows]
    labels = list_labels(expected)
    if detect_task_kind(expected) != "classes" or len(labels) > MAX_LABELS:
        return None
    reader = LabelReader(labels)
    pairs = [
        (text.strip(), _read_label(answer, text.strip(), reader))
        for text, answer in rows
        if answer is not None
    ]
    return Confusions(labels, Counter(pairs)) if pairs else None


def _read_label(answer: Answer, expected: str, reader: LabelReader) -> str:
    """Return the label that an answer gives; the table then agrees with the scores of rows."""
    if answer.is_right:
        return expected
    found = reader.read(answer.text)
    return OTHER if found is None or found == expected else found

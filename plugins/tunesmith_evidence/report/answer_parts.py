"""Score the fields of JSON answers, count confused labels, and sort wrong answers by error."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tunesmith.text import format_count
from tunesmith_evidence.answers.normalize import LabelReader, strip_reasoning
from tunesmith_evidence.report.answers import Answer, AnswerRow, Answers
from tunesmith_evidence.slices.items import describe_near_miss
from tunesmith_evidence.tasks.json_answers import (
    FieldPath,
    JsonFields,
    find_field_order,
    have_equal_values,
    parse_json_object,
)
from tunesmith_evidence.tasks.kinds import detect_task_kind, list_labels, unify_spellings

__all__ = [
    "MAX_PAIRS",
    "Confusions",
    "FieldScore",
    "count_confusions",
    "describe_fields",
    "find_weakest_field",
    "list_error_kinds",
    "score_fields",
]

MAX_MATRIX_LABELS = 12
"""Labels beyond which a table of all pairs is not readable."""
MAX_PAIRS = 10
"""Number of confused pairs to list."""
MAX_NEAR_MISS_CHARACTERS = 300
"""Longer answers are not compared by character, which takes quadratic time."""
OTHER = "(another answer)"
"""Column for answers that are none of the labels."""


@dataclass(frozen=True)
class FieldScore:
    """The number of right values for one field of JSON answers, by model."""

    name: str
    """Path of keys, such as ``order.id``."""
    rows: int
    """Number of expected answers that have the field."""
    right: Mapping[str, tuple[int, int]]
    """For each model: number of rows whose field is right, and number of rows it answered."""

    def share(self, model: str) -> float:
        """Return the share of a model's answered rows whose field is right, or 0 without rows."""
        right, answered = self.right[model]
        return right / answered if answered else 0.0

    def format(self, model: str) -> str:
        """Return a model's right rows as text, such as "82 of 100", or "" without answered rows."""
        right, answered = self.right[model]
        return f"{right:,} of {answered:,}" if answered else ""


@dataclass(frozen=True)
class Confusions:
    """Counts of how often a model gave one label where another label was expected."""

    labels: Sequence[str]
    """The expected labels, the most frequent first."""
    counts: Mapping[tuple[str, str], int]
    """Counts by expected and given label; the given label can be :data:`OTHER`."""

    @property
    def is_matrix(self) -> bool:
        """True if a table of all pairs is small enough to read; otherwise, show the worst pairs."""
        return len({*self.columns} - {OTHER}) <= MAX_MATRIX_LABELS

    @property
    def columns(self) -> Sequence[str]:
        """The given labels: the expected ones, labels of other rows, and :data:`OTHER`."""
        given = {given for _, given in self.counts}
        others = sorted(given - {*self.labels, OTHER})
        return [*self.labels, *others, *({OTHER} & given)]

    @property
    def worst(self) -> list[tuple[str, str, int]]:
        """The confused pairs as (expected label, given label, count), the most frequent first."""
        pairs = [(*pair, count) for pair, count in self.counts.items() if pair[0] != pair[1]]
        return sorted(pairs, key=lambda pair: (-pair[2], pair[:2]))


def score_fields(answers: Answers) -> list[FieldScore]:
    """Count correct fields by model. Return no counts unless expected answers are JSON objects.

    A field is correct if the answer contains it with an equal value, in any spelling. Rows whose
    answer is not a JSON object have no correct fields.
    """
    expected = [row.expected for row in answers.rows]
    if detect_task_kind(expected) != "objects":
        return []
    wanted = [*map(_parse_fields, expected)]
    given = {
        model: [
            (answer is not None, _parse_fields(answer.text) if answer else {})
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


def _parse_fields(answer: str) -> JsonFields:
    return parse_json_object(strip_reasoning(answer)) or {}


def find_weakest_field(scores: Sequence[FieldScore], model: str) -> FieldScore | None:
    """Return the field with a model's lowest share of right values; None if all are right."""
    weakest = min(scores, key=lambda score: score.share(model), default=None)
    return weakest if weakest and weakest.share(model) < 1 else None


def describe_fields(scores: Sequence[FieldScore], tuned: str, baseline: str, limit: int) -> str:
    """Return the tuned model's scores by field as text, the lowest share of right values first.

    At most ``limit`` fields are listed. The result is "" if there are no fields.
    """
    ordered = sorted(scores, key=lambda score: score.share(tuned))
    parts = []
    for score in ordered[:limit]:
        (_, answered), (right, others) = score.right[tuned], score.right.get(baseline, (0, 0))
        of = "" if others == answered else f" of {others:,}"
        note = f" ({baseline}: {right:,}{of})" if others else ""
        parts.append(f"{score.name} {score.format(tuned)}{note}")
    hidden = len(ordered) - len(parts)
    return "; ".join(parts) + (f"; and {format_count(hidden, 'more field')}" if hidden > 0 else "")


def _count_right(
    path: FieldPath, wanted: Sequence[JsonFields], given: Sequence[tuple[bool, JsonFields]]
) -> tuple[int, int]:
    """Return the number of rows whose field is right, and of rows that the model answered."""
    answered = [
        (fields, found)
        for fields, (was_asked, found) in zip(wanted, given, strict=True)
        if was_asked and path in fields
    ]
    right = sum(_is_right(path, fields, found) for fields, found in answered)
    return right, len(answered)


def _is_right(path: FieldPath, wanted: JsonFields, given: JsonFields) -> bool:
    return path in given and have_equal_values({path: wanted[path]}, {path: given[path]})


def count_confusions(answers: Answers, model: str) -> Confusions | None:
    """Count a model's answers by expected and given label; None unless the task has labels.

    The counts are the evaluator's own if it read a label from each answer.
    """
    if answers.confusion:
        rows_of = {label: sum(given.values()) for label, given in answers.confusion.items()}
        labels = sorted(rows_of, key=lambda label: (-rows_of[label], label))
        return Confusions(
            labels,
            {
                (label, given or OTHER): count
                for label, found in answers.confusion.items()
                for given, count in found.items()
            },
        )
    expected = unify_spellings([row.expected for row in answers.rows])
    if detect_task_kind(expected) != "classes":
        return None
    labels = list_labels(expected)
    reader = LabelReader(labels)
    given = [row.find_answer(model) for row in answers.rows]
    rows = zip(expected, given, strict=True)
    pairs = [(text, _read_label(answer, text, reader)) for text, answer in rows if answer]
    return Confusions(labels, Counter(pairs)) if pairs else None


def _read_label(answer: Answer, expected: str, reader: LabelReader) -> str:
    """Return the label that an answer gives, so that the table agrees with the rows' scores."""
    if answer.is_right:
        return expected
    found = reader.read(answer.text)
    return OTHER if found is None or found == expected else found


def list_error_kinds(answers: Answers) -> dict[str, list[AnswerRow]]:
    """Sort the tuned model's wrong answers by kind of error, the most frequent kind first.

    A kind names the wrong fields, the confused labels, or how the answers differ. Return no kinds
    if no answers were stored, or if the metric has no best value.
    """
    if not answers.has_texts or not answers.has_best:
        return {}
    expected = unify_spellings([row.expected for row in answers.rows])
    task = detect_task_kind(expected)
    reader = LabelReader(list_labels(expected)) if task == "classes" else None
    kinds: dict[str, list[AnswerRow]] = {}
    for row, wanted in zip(answers.rows, expected, strict=True):
        if not row.is_wrong:
            continue
        answer = row.answers[-1]
        if not answer.text.strip():
            name = "empty answer"
        elif reader is not None:
            given = _read_label(answer, wanted, reader)
            name = "none of the labels" if given == OTHER else f"{wanted} answered as {given}"
        elif task == "objects":
            name = _describe_wrong_fields(wanted, answer.text)
        else:
            is_short = len(wanted) <= MAX_NEAR_MISS_CHARACTERS
            name = (is_short and describe_near_miss(answer.text, wanted)) or "another answer"
        kinds.setdefault(name, []).append(row)
    return dict(sorted(kinds.items(), key=lambda kind: -len(kind[1])))


def _describe_wrong_fields(expected: str, answer: str) -> str:
    wanted, given = parse_json_object(expected) or {}, parse_json_object(answer)
    if given is None:
        return "not a JSON object"
    fields = {
        "wrong": [p for p in wanted if p in given and not _is_right(p, wanted, given)],
        "missing": [path for path in wanted if path not in given],
        "unexpected": [path for path in given if path not in wanted],
    }
    parts = [f"{how} {', '.join(map('.'.join, paths))}" for how, paths in fields.items() if paths]
    return "; ".join(parts) or "differs only in its form"

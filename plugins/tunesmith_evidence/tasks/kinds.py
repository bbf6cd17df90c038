"""Recognize the kind of a task from the answers in its training rows.

- ``classes``: a few short answers that recur
- ``objects``: JSON objects with common keys
- ``text``: anything else
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from tunesmith.records import Preference, Record
from tunesmith_evidence.answers.normalize import normalize_unicode
from tunesmith_evidence.tasks.examples import read_examples
from tunesmith_evidence.tasks.json_answers import parse_json_object

__all__ = [
    "TaskKind",
    "are_pairs",
    "detect_record_task",
    "detect_task_kind",
    "has_classes",
    "has_fixed_answers",
    "has_recurring_answers",
    "list_labels",
    "unify_spellings",
]

TaskKind = Literal["classes", "objects", "text"]
MAX_LABEL_CHARACTERS = 200
MAX_NEW_ANSWERS = 0.15
"""Maximum share of rows with a unique answer for ``classes``. It estimates the probability that the
next row has a new answer (Good-Turing)."""
MIN_ROWS_PER_LABEL = 2
MAX_NUMBERS = 20
"""If there are more distinct numeric answers than this, they are quantities and not classes."""
MIN_OBJECTS = 0.9
MIN_RECURRING = 0.5
"""Minimum share of rows with recurring answers for copying from similar rows to pay off."""
_NUMBER = re.compile(r"\W*\d[\d.,\s]*\W*")


def detect_task_kind(answers: Sequence[str]) -> TaskKind:
    """Return the kind of a task whose training rows have these answers.

    - ``objects``: at least 90 % are JSON objects, and half of all answers share a key.
    - ``classes``: each answer occurs at least twice on average, and few occur only once.
    - ``text``: anything else, including no answers at all.
    """
    if not answers:
        return "text"
    objects = [set(fields) for fields in map(parse_json_object, answers) if fields]
    if len(objects) >= MIN_OBJECTS * len(answers):
        keys = Counter(key for fields in objects for key in fields)
        if max(keys.values()) >= len(answers) / 2:
            return "objects"
    return "classes" if _are_classes(Counter(map(normalize_unicode, answers))) else "text"


def detect_record_task(records: Sequence[Record]) -> TaskKind:
    """Return the kind of task in these records."""
    return detect_task_kind([example.answer for example in read_examples(records)])


def _are_classes(counts: Counter[str]) -> bool:
    rows = counts.total()
    if rows < MIN_ROWS_PER_LABEL * len(counts) or max(map(len, counts)) > MAX_LABEL_CHARACTERS:
        return False
    numbers = sum(_NUMBER.fullmatch(label) is not None for label in counts)
    if numbers > MAX_NUMBERS and 2 * numbers > len(counts):
        return False
    return sum(count == 1 for count in counts.values()) <= MAX_NEW_ANSWERS * rows


def are_pairs(records: Sequence[Record]) -> bool:
    """Return True if all records are pairs of answers."""
    return bool(records) and all(isinstance(record, Preference) for record in records)


def list_labels(answers: Sequence[str]) -> list[str]:
    """Return the distinct answers, the most frequent first, with ties in alphabetical order.

    Answers that :func:`unify_spellings` unifies are one label.
    """
    counts = Counter(unify_spellings(answers))
    return sorted(counts, key=lambda label: (-counts[label], label))


def unify_spellings(answers: Sequence[str]) -> list[str]:
    """Return each answer in the most frequent of the spellings that look the same.

    Such spellings differ in white space or in their Unicode form. Evaluators treat them as equal.
    """
    spellings: dict[str, Counter[str]] = {}
    for answer in answers:
        spellings.setdefault(normalize_unicode(answer), Counter())[answer.strip()] += 1
    usual = {
        label: min(counts, key=lambda text: (-counts[text], text != label, text))
        for label, counts in spellings.items()
    }
    return [usual[normalize_unicode(answer)] for answer in answers]


def has_classes(records: Sequence[Record]) -> bool:
    """Return True if the answers are classes."""
    return detect_record_task(records) == "classes"


def has_fixed_answers(records: Sequence[Record]) -> bool:
    """Return True if the answers are classes or objects, which a classifier could predict."""
    return detect_record_task(records) != "text"


def has_recurring_answers(records: Sequence[Record]) -> bool:
    """Return True if answers are classes or objects, or if half of the rows share short answers.

    The last condition covers datasets with many classes of two rows each, where a split leaves only
    one row of most classes.
    """
    answers = [example.answer for example in read_examples(records)]
    counts = Counter(map(normalize_unicode, answers))
    once = sum(count == 1 for count in counts.values())
    return detect_task_kind(answers) != "text" or (
        len(answers) - once >= MIN_RECURRING * len(answers) > 0
        and max(map(len, counts)) <= MAX_LABEL_CHARACTERS
    )

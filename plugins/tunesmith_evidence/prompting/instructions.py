"""Write instructions that describe the expected answers: their labels, keys or length."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

from tunesmith_evidence.tasks.json_answers import (
    FieldPath,
    JsonFields,
    find_field_order,
    parse_json_object,
)
from tunesmith_evidence.tasks.kinds import TaskKind, list_labels

__all__ = ["describe_length"]

MAX_LISTED_CHARACTERS = 8_000
"""Longer lists of labels are omitted from instructions."""
MAX_LISTED_VALUES = 30
MAX_SHORT_WORDS = 30
"""Answers of up to this many words count as short."""


def describe_answers(kind: TaskKind, answers: Sequence[str]) -> str:
    """Return an instruction that describes answers like these, or "" if no description fits."""
    if kind == "classes":
        return describe_labels(list_labels(answers))
    if kind == "objects":
        return describe_objects(answers)
    return describe_length(answers)


def describe_labels(labels: Sequence[str]) -> str:
    """Return an instruction with the list of labels, or an empty string if the list is too long."""
    listed = "\n".join(f"- {label}" for label in sorted(labels))
    if len(listed) > MAX_LISTED_CHARACTERS:
        return ""
    return f"Answer with exactly one of these labels, and with nothing else:\n{listed}"


def describe_objects(answers: Sequence[str]) -> str:
    """Return an instruction with the keys of JSON objects, their values and one example.

    The result is "" if no answer is a JSON object.
    """
    parsed = {answer: fields for answer in answers if (fields := parse_json_object(answer))}
    if not parsed:
        return ""
    objects = [parsed[answer] for answer in answers if answer in parsed]
    keys = [_describe_key(path, objects) for path in find_field_order(objects)]
    typical = sorted(parsed, key=lambda a: (-len(parsed[a]), len(a), a))[0]
    return (
        "Answer with one JSON object, and with nothing else. It has these keys, in this order:\n"
        + "\n".join(keys)
        + f"\nWrite it in the form of this example:\n{typical}"
    )


def _describe_key(path: FieldPath, objects: Sequence[JsonFields]) -> str:
    counts = Counter(fields[path] for fields in objects if path in fields)
    values = sorted(counts, key=lambda value: (-counts[value], value))
    recurring = [value for value in values if counts[value] > 1]
    share = sum(counts[value] for value in recurring) / counts.total()
    if len(values) <= MAX_LISTED_VALUES and share >= 0.9:
        kind = f"one of {', '.join(sorted(values))}"
    else:
        kind = f"{_name_type(values[0])}, such as {values[0]}"
    where = " inside ".join(json.dumps(key, ensure_ascii=False) for key in reversed(path))
    optional = "; left out if there is none" if counts.total() < len(objects) else ""
    return f"- {where}: {kind}{optional}"


def _name_type(value: str) -> str:
    truth = "true or false"
    names = {'"': "a text", "[": "a list", "{": "an object", "t": truth, "f": truth, "n": "null"}
    return names.get(value[:1], "a number")


def describe_length(answers: Sequence[str]) -> str:
    """Return an instruction with the maximum length of short one-line answers, otherwise ""."""
    if not answers or any("\n" in answer.strip() for answer in answers):
        return ""
    longest = sorted(len(answer.split()) for answer in answers)[int(0.95 * (len(answers) - 1))]
    if longest > MAX_SHORT_WORDS:
        return ""
    words = "word" if longest == 1 else "words"
    return f"Answer in one line with at most {longest} {words}, and without an explanation."

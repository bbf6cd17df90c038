"""Derive a JSON schema from answers: keys, types, and enums for fields with few values.

Constrained decoding needs a bounded schema. Strings and lists may be at most twice as long as in
the answers, and numbers may have at most one more digit.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tunesmith_evidence.tasks.json_answers import find_json_style

__all__ = ["Schema", "derive_schema"]

Schema = dict[str, Any]
MAX_ENUM = 40
"""Maximum number of distinct strings in a field that becomes an enum."""
MAX_NEW_VALUES = 0.15
"""Maximum share of strings that occur only once. With a larger share, the next answer may well
contain a new string."""


def derive_schema(answers: Sequence[str]) -> Schema | None:
    """Derive a schema from the answers that are JSON objects, or return None if no answer is one.

    Keys are sorted by their mean position. A key is required if all answers have it.
    """
    objects = [value for value in map(_load, answers) if isinstance(value, dict) and value]
    return _describe_objects(objects) if objects else None


def _load(answer: str) -> Any:
    style = find_json_style([answer])
    text = answer.removeprefix(style.opening).removesuffix(style.closing)
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _describe_objects(objects: Sequence[dict[str, Any]]) -> Schema:
    counts = Counter(key for value in objects for key in value)
    places = {key: 0.0 for key in counts}
    for value in objects:
        for place, key in enumerate(value):
            places[key] += place / len(value) / counts[key]
    keys = sorted(counts, key=lambda key: (places[key], key))
    return {
        "type": "object",
        "properties": {key: _describe([v[key] for v in objects if key in v]) for key in keys},
        "required": [key for key in keys if counts[key] == len(objects)],
        "additionalProperties": False,
    }


def _describe(values: Sequence[Any]) -> Schema:
    """Return the schema of a field from its values. Values of several types become ``anyOf``."""
    kinds: dict[str, list[Any]] = {}
    for value in values:
        kinds.setdefault(_kind_of(value), []).append(value)
    schemas = [_SCHEMAS[kind](found) for kind, found in sorted(kinds.items())]
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}


def _kind_of(value: Any) -> str:
    match value:
        case None | bool():
            return "constant"
        case int() | float():
            return "number"
        case str():
            return "text"
        case dict():
            return "object" if value else "constant"
        case _:
            return "list"


def _describe_constants(values: Sequence[Any]) -> Schema:
    return {"enum": [json.loads(text) for text in sorted(set(map(json.dumps, values)))]}


def _describe_numbers(values: Sequence[float]) -> Schema:
    finite = [value for value in values if abs(value) < math.inf]
    if not finite:
        return {"type": "number"}
    kind = "integer" if all(isinstance(value, int) for value in finite) else "number"
    largest = 10 ** (len(str(int(max(map(abs, finite))))) + 1) - 1
    return {"type": kind, "minimum": -largest if min(finite) < 0 else 0, "maximum": largest}


def _describe_texts(values: Sequence[str]) -> Schema:
    counts = Counter(values)
    single = sum(count == 1 for count in counts.values())
    if len(counts) <= MAX_ENUM and single <= MAX_NEW_VALUES * len(values):
        return {"enum": sorted(counts)}
    lengths = [*map(len, counts)]
    return {"type": "string", "minLength": min(1, min(lengths)), "maxLength": 2 * max(lengths) or 1}


def _describe_lists(values: Sequence[list[Any]]) -> Schema:
    items = [item for value in values for item in value]
    longest = 2 * max(map(len, values))
    return {"type": "array", "maxItems": longest, **({"items": _describe(items)} if items else {})}


_SCHEMAS: dict[str, Any] = {
    "constant": _describe_constants,
    "number": _describe_numbers,
    "text": _describe_texts,
    "list": _describe_lists,
    "object": _describe_objects,
}

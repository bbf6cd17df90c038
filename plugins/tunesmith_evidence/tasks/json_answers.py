"""Parse answers that are JSON objects into fields, and write fields in the same style.

A field is a path of keys, such as ``("order", "id")``. Its value is JSON text exactly as in the
answer, so ``12.50`` stays ``12.50``. Lists and empty objects count as values.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith_evidence.answers.normalize import normalize_unicode, strip_reasoning

__all__ = [
    "NO_JSON",
    "FieldPath",
    "JsonFields",
    "JsonStyle",
    "are_json_values_equal",
    "find_field_order",
    "find_json_style",
    "have_equal_values",
    "parse_json_answer",
    "parse_json_object",
]

FieldPath = tuple[str, ...]
JsonFields = dict[FieldPath, str]
_FENCE = re.compile(r"\A(\s*```\w*\s*)(.*?)(\s*```\s*)\Z", re.DOTALL)
NO_JSON = object()
"""Stands for an answer that is not JSON."""
_BLOCK = re.compile(r"\A\s*(`{3,}|~{3,})[ \t]*\w*\s*(.*?)\s*\1\s*\Z", re.DOTALL)


class _Number(str):
    """A number in its original spelling."""


def parse_json_object(answer: str) -> JsonFields | None:
    """Return the fields of an answer that is one JSON object (fenced or not), otherwise None."""
    value = _load(_split_fence(answer)[1])
    return dict(_flatten((), value)) if isinstance(value, dict) else None


def parse_json_answer(text: str) -> Any:
    """Return the JSON value of an answer, which may be in a code block and follow reasoning.

    The result is ``NO_JSON`` if the answer is not JSON.
    """
    text = strip_reasoning(text)
    block = _BLOCK.match(text)
    try:
        return json.loads(block[2] if block else text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return NO_JSON


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def are_json_values_equal(first: Any, second: Any) -> bool:
    """Return True for equal JSON values: 1 and 1.0 are equal, but 1 and true are not.

    Strings may differ in white space and Unicode form.
    """
    if isinstance(first, bool) or isinstance(second, bool):
        return first is second
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(are_json_values_equal, first, second))
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(
            are_json_values_equal(value, second[key]) for key, value in first.items()
        )
    if isinstance(first, str) and isinstance(second, str):
        return normalize_unicode(first) == normalize_unicode(second)
    return bool(first == second)


def have_equal_values(first: JsonFields, second: JsonFields) -> bool:
    """Return True if both answers have the same fields with equal values, in any spelling."""
    return first.keys() == second.keys() and all(
        are_json_values_equal(json.loads(value), json.loads(second[path]))
        for path, value in first.items()
    )


def _load(text: str) -> Any:
    try:
        return json.loads(
            text, parse_float=_Number, parse_int=_Number, object_pairs_hook=_unique_keys
        )
    except (ValueError, RecursionError):
        return None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a key occurs twice in a JSON object")
    return fields


def _split_fence(answer: str) -> tuple[str, str, str]:
    match = _FENCE.match(answer)
    return (match[1], match[2], match[3]) if match else ("", answer, "")


def _flatten(path: FieldPath, value: Any) -> list[tuple[FieldPath, str]]:
    if isinstance(value, dict) and (value or not path):
        return [item for key, below in value.items() for item in _flatten((*path, key), below)]
    return [(path, JsonStyle().write(value))]


@dataclass(frozen=True)
class JsonStyle:
    """The style of JSON answers: separators, indent, escapes and the text around them."""

    comma: str = ", "
    colon: str = ": "
    indent: int = 0
    """Number of spaces per level, or 0 for a single line."""
    ascii_only: bool = False
    opening: str = ""
    """Text before the object, such as a Markdown fence."""
    closing: str = ""

    def write(self, value: Any, level: int = 1) -> str:
        """Write a value as JSON text in this style."""
        if isinstance(value, _Number):
            return str(value)
        if isinstance(value, dict):
            items = [
                f"{self.write(key)}{self.colon}{self.write(below, level + 1)}"
                for key, below in value.items()
            ]
            return self._enclose("{", items, "}", level)
        if isinstance(value, list):
            return self._enclose("[", [self.write(v, level + 1) for v in value], "]", level)
        return json.dumps(value, ensure_ascii=self.ascii_only)

    def _enclose(self, opening: str, items: Sequence[str], closing: str, level: int) -> str:
        if not self.indent or not items:
            return f"{opening}{self.comma.join(items)}{closing}"
        line = "\n" + " " * (self.indent * level)
        end = "\n" + " " * (self.indent * (level - 1))
        return f"{opening}{line}{(self.comma.rstrip() + line).join(items)}{end}{closing}"

    def write_fields(self, fields: Mapping[FieldPath, str]) -> str:
        """Write an answer with these fields, whose values are JSON text."""
        root: dict[str, Any] = {}
        for path, value in fields.items():
            below = root
            for key in path[:-1]:
                inner = below.setdefault(key, {})
                if not isinstance(inner, dict):
                    inner = below[key] = {}
                below = inner
            below[path[-1]] = _load(value)
        return f"{self.opening}{self.write(root)}{self.closing}"


def find_json_style(answers: Sequence[str]) -> JsonStyle:
    """Return the style that reproduces the largest number of answers exactly."""
    fences: Counter[tuple[str, str]] = Counter()
    bodies = []
    for answer in answers:
        opening, body, closing = _split_fence(answer)
        value = _load(body)
        if isinstance(value, dict):
            fences[opening, closing] += 1
            bodies.append((body.strip(), value))
    opening, closing = min(fences, key=lambda f: (-fences[f], f)) if fences else ("", "")
    styles = [
        JsonStyle(comma, colon, indent, ascii_only, opening, closing)
        for comma, colon, indent in (
            (", ", ": ", 0), (",", ":", 0), (",", ": ", 0), (", ", ":", 0),
            (",", ": ", 2), (",", ": ", 4), (",", ": ", 1),
        )
        for ascii_only in (False, True)
    ]  # fmt: skip
    return max(styles, key=lambda style: sum(style.write(v) == body for body, v in bodies))


def find_field_order(answers: Sequence[JsonFields]) -> list[FieldPath]:
    """Return the paths of all fields, sorted by their mean relative position in the answers."""
    counts = Counter(path for fields in answers for path in fields)
    places: dict[FieldPath, float] = dict.fromkeys(counts, 0.0)
    for fields in answers:
        for place, path in enumerate(fields):
            places[path] += place / len(fields) / counts[path]
    return sorted(counts, key=lambda path: (places[path], path))

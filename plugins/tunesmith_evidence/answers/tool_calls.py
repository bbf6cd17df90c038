"""Parse tool calls in generated answers."""

from __future__ import annotations

import json
import re
from typing import Any

from tunesmith.records import ToolCall
from tunesmith_evidence.answers.normalize import strip_reasoning

__all__ = [
    "Call",
    "count_settled_characters",
    "find_tool_calls",
    "parse_tool_call",
    "split_tool_calls",
]

CALL_MARKS = ("<tool_call>", "[TOOL_CALLS]", "<|python_tag|>")
"""Markers that chat templates write before tool calls."""

Call = tuple[str, Any]
"""Name and arguments of a tool call."""
_DECODER = json.JSONDecoder()
_OPENS_OBJECT = re.compile(r"\{\s*(?:\"|\Z)")
"""Matches the start of a JSON object that has a key, or is cut off before its first key."""
_LONGEST_WORD = len("-Infinity")


def parse_tool_call(call: ToolCall) -> Call:
    """Return the name and the arguments of a call. Arguments that are not JSON remain text."""
    try:
        return call.name, json.loads(call.arguments or "{}")
    except ValueError:
        return call.name, call.arguments


def find_tool_calls(text: str) -> list[Call]:
    """Return the tool calls in an answer, in order, in the formats of common chat templates.

    A call is a JSON object with ``name`` and ``arguments`` or ``parameters``, possibly nested under
    ``function``. It may be between ``<tool_call>`` tags, in a list after ``[TOOL_CALLS]``, or
    anywhere else.
    """
    return split_tool_calls(text)[1]


def split_tool_calls(text: str) -> tuple[str, list[Call]]:
    """Split an answer into the text before its tool calls, and the calls.

    If there are no calls, the text is the whole answer. Text after the first call is dropped.
    """
    found: list[tuple[int, Call]] = []
    position = len(text) - len(strip_reasoning(text))
    while (start := text.find("{", position)) >= 0:
        try:
            value, position = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            position = start + 1
            continue
        if (call := _as_call(value)) is not None:
            found.append((start, call))
    if not found:
        return text, []
    return text[: _start_of_marks(text, found[0][0])], [call for _, call in found]


def count_settled_characters(text: str) -> int:
    """Return how many characters of an unfinished answer are text, no matter what comes next.

    The remaining characters may turn out to be a tool call, or the markers before one.
    """
    position = len(text) - len(strip_reasoning(text))
    while (start := text.find("{", position)) >= 0:
        try:
            value, position = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError) as error:
            if _can_be_completed(text, start, error):
                return _start_of_marks(text, start)
            position = start + 1
            continue
        if _as_call(value) is not None:
            return _start_of_marks(text, start)
    partial = (mark[:end] for mark in CALL_MARKS for end in range(1, len(mark)))
    ends = [len(text), *(len(text) - len(part) for part in partial if text.endswith(part))]
    return min(_start_of_marks(text, end) for end in ends)


def _start_of_marks(text: str, end: int) -> int:
    """Return the start of the markers and white space that end at position ``end``."""
    before = text[:end].rstrip().removesuffix("[").rstrip()
    for mark in CALL_MARKS:
        before = before.removesuffix(mark)
    return len(before.rstrip())


def _can_be_completed(text: str, start: int, error: Exception) -> bool:
    """Return True if the object that starts there can still become a tool call with more text.

    A decoding error is final if it is followed by more text than the longest JSON word, because
    then nothing was cut off. An unterminated string can always continue.
    """
    if not _OPENS_OBJECT.match(text, start) or not isinstance(error, json.JSONDecodeError):
        return False
    return error.msg.startswith("Unterminated") or len(text) - error.pos <= _LONGEST_WORD


def _as_call(value: Any) -> Call | None:
    if not isinstance(value, dict):
        return None
    inner = value.get("function")
    if isinstance(inner, dict):
        return _as_call(inner)
    name = value.get("name")
    arguments = value.get("arguments", value.get("parameters"))
    if not isinstance(name, str) or not ({"arguments", "parameters"} & value.keys()):
        return None
    if isinstance(arguments, str):
        return parse_tool_call(ToolCall(name, arguments))
    return name, {} if arguments is None else arguments

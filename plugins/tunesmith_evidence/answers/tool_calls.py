"""Calls of tools in generated answers."""

from __future__ import annotations

import json
import re
from typing import Any

from tunesmith.records import ToolCall
from tunesmith_evidence.answers.normalize import strip_reasoning

__all__ = ["Call", "find_calls", "read_call", "settled_length", "split_calls"]

MARKS = ("<tool_call>", "[TOOL_CALLS]", "<|python_tag|>")
"""Marks that chat templates write in front of calls."""

Call = tuple[str, Any]
"""Name and arguments of a call."""
_DECODER = json.JSONDecoder()
_OPENS_OBJECT = re.compile(r"\{\s*(?:\"|\Z)")
"""An object that is not empty, or whose first key is still to come."""
_LONGEST_WORD = len("-Infinity")


def read_call(call: ToolCall) -> Call:
    """Return name and arguments of a call; arguments that are not JSON stay text."""
    try:
        return call.name, json.loads(call.arguments or "{}")
    except ValueError:
        return call.name, call.arguments


def find_calls(text: str) -> list[Call]:
    """Return the calls in an answer, in order, as the chat templates of common models write them.

    A call is a JSON object with ``name``, and ``arguments`` or ``parameters``, wherever it stands:
    between ``<tool_call>`` marks, in a list behind ``[TOOL_CALLS]``, or alone. An object below
    ``function`` is one too.
    """
    return split_calls(text)[1]


def split_calls(text: str) -> tuple[str, list[Call]]:
    """Return the text in front of the calls in an answer, and the calls.

    Without calls, it is the whole answer. Text behind the first call is a part of neither.
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


def settled_length(text: str) -> int:
    """Return how many characters of an unfinished answer are text, whatever follows.

    The text behind them may be a call, the marks in front of one, or the beginning of these.
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
    partial = (mark[:end] for mark in MARKS for end in range(1, len(mark)))
    ends = [len(text), *(len(text) - len(part) for part in partial if text.endswith(part))]
    return min(_start_of_marks(text, end) for end in ends)


def _start_of_marks(text: str, end: int) -> int:
    """Return where the marks and the white space begin that end there."""
    before = text[:end].rstrip().removesuffix("[").rstrip()
    for mark in MARKS:
        before = before.removesuffix(mark)
    return len(before.rstrip())


def _can_be_completed(text: str, start: int, error: Exception) -> bool:
    """Return True if the object that begins there can become a call with more text.

    An error of the decoder is final when so much text follows it that no word of JSON is cut off;
    only a string may be longer.
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
        return read_call(ToolCall(name, arguments))
    return name, {} if arguments is None else arguments

"""Calls of tools in generated answers."""

from __future__ import annotations

import json
from typing import Any

from tunesmith.records import ToolCall
from tunesmith_evidence.answers.normalize import strip_reasoning

Call = tuple[str, Any]
"""Name and arguments of a call."""
_DECODER = json.JSONDecoder()


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
    text, calls, position = strip_reasoning(text), [], 0
    while (start := text.find("{", position)) >= 0:
        try:
            value, position = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            position = start + 1
            continue
        call = _as_call(value)
        if call is not None:
            calls.append(call)
    return calls


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

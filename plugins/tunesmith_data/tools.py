"""Parse tool definitions and tool calls in rows, in the formats that datasets use.

Definitions are a list of objects, given as a value or as JSON text. Each object is either in the
format of OpenAI's chat API (``{"type": "function", "function": {...}}``) or just its inner object.
Calls are OpenAI's ``tool_calls``, ShareGPT's ``function_call`` turns, or text between
``<tool_call>`` tags as written by Hermes models.
"""

from __future__ import annotations

import json
import re
from typing import Any

from tunesmith.records import ToolCall
from tunesmith_data.json_line import parse_json_text
from tunesmith_data.row import RowError, json_type
from tunesmith_data.text import require_text

__all__ = ["parse_tools", "tool_name"]

_INLINE_CALLS = re.compile(r"<tool_call>(.*?)</tool_call>\s*", re.DOTALL)
_INLINE_RESULTS = re.compile(r"<tool_response>\s*(.*?)\s*</tool_response>\s*", re.DOTALL)


def parse_tools(value: object, name: str) -> tuple[str, ...]:
    """Return tool definitions, each as JSON text in OpenAI's format.

    Raises:
        RowError: a definition is not an object with a name.
    """
    if isinstance(value, str):
        value = parse_json_text(value, name) if value.strip() else None
    if value is None:
        return ()
    definitions = value if isinstance(value, list) else [value]
    return tuple(_definition(item, name) for item in definitions)


def _definition(item: object, name: str) -> str:
    if isinstance(item, str):  # a list of JSON texts
        item = parse_json_text(item, name)
    if not isinstance(item, dict):
        raise RowError(f"{name} contains {json_type(item)}, not a tool definition")
    function = item.get("function", item)
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise RowError(f"{name} has a definition without the tool's name")
    if "function" not in item:
        function = {key: part for key, part in item.items() if key != "type"}
        item = {"type": "function", "function": function}
    return to_json_text(item, name)


def tool_name(definition: str) -> str:
    """Return the tool's name in a definition from :func:`parse_tools`."""
    found: str = json.loads(definition)["function"]["name"]
    return found


def parse_tool_calls(value: object, name: str) -> tuple[ToolCall, ...]:
    """Return the tool calls in a list, in one object, or in the JSON text of either.

    Raises:
        RowError: a call has no name, or its arguments are not a JSON object.
    """
    if isinstance(value, str):
        value = parse_json_text(value, name) if value.strip() else None
    if value is None:
        return ()
    calls = value if isinstance(value, list) else [value]
    return tuple(_call(item, name) for item in calls)


def _call(item: object, name: str) -> ToolCall:
    if not isinstance(item, dict):
        raise RowError(f"{name} contains {json_type(item)}, not a tool call")
    function = item.get("function", item)
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise RowError(f"{name} has a call without the tool's name")
    identifier = item.get("id")
    return ToolCall(
        require_text(function["name"], name),
        _arguments(function, name),
        "" if identifier is None else require_text(identifier, name),
    )


def _arguments(function: dict[str, Any], name: str) -> str:
    """Return the arguments of a call as the JSON text of an object."""
    value = function.get("arguments", function.get("parameters"))
    if value is None or value == "":
        return "{}"
    parsed = parse_json_text(value, f"arguments in {name}") if isinstance(value, str) else value
    if not isinstance(parsed, dict):
        raise RowError(f"arguments in {name} are {json_type(parsed)}, not an object")
    return require_text(value, name) if isinstance(value, str) else to_json_text(parsed, name)


def split_inline_calls(text: str) -> tuple[str, tuple[ToolCall, ...]]:
    """Split an answer into its text and the ``<tool_call>`` calls at its end.

    If the tags cannot be parsed as calls, or other text follows them, the whole text is returned
    without calls.
    """
    start = text.find("<tool_call>")
    if start < 0 or _INLINE_CALLS.sub("", text[start:]):
        return text, ()
    try:
        calls = [
            call
            for block in _INLINE_CALLS.findall(text[start:])
            for call in parse_tool_calls(block.strip(), "a <tool_call>")
        ]
    except RowError:
        return text, ()
    return text[:start].rstrip(), tuple(calls)


def split_inline_results(text: str) -> tuple[str, ...]:
    """Return the results between ``<tool_response>`` tags, without the tags.

    Chat templates add their own tags. If there is anything outside the tags, the text is returned
    unchanged as one result.
    """
    results = _INLINE_RESULTS.findall(text)
    return tuple(results) if results and not _INLINE_RESULTS.sub("", text).strip() else (text,)


def to_json_text(value: object, name: str) -> str:
    """Return a value as JSON text, keeping the order of keys.

    Raises:
        RowError: the text cannot be encoded as UTF-8; ``name`` is its name in the message.
    """
    return require_text(json.dumps(value, ensure_ascii=False), name)

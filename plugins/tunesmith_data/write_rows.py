"""Write records as JSON rows that the loaders read back as the same records."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tunesmith.records import (
    Chat,
    Completion,
    Message,
    Preference,
    Record,
    Text,
    TextPart,
    ToolCall,
    UnpairedPreference,
)

__all__ = ["record_to_row"]


def record_to_row(record: Record) -> dict[str, Any]:
    """Return a record as a row with its content, group and slices.

    Raises:
        TypeError: a plugin defines this kind of record.
    """
    labels = {"group": record.group} if record.group is not None else {}
    return {**_content(record), **labels, **dict(record.slices)}


def _content(record: Record) -> dict[str, Any]:
    match record:
        case Text():
            return {"text": record.text}
        case Completion():
            return {"prompt": record.prompt, "completion": record.completion}
        case Chat():
            return _with_tools("messages", record.messages)
        case Preference():
            prompt = _with_tools("prompt", record.prompt)
            return {**prompt, "chosen": record.chosen, "rejected": record.rejected}
        case UnpairedPreference():
            prompt = _with_tools("prompt", record.prompt)
            return {**prompt, "completion": record.completion, "label": record.label}
        case _:
            raise TypeError(
                f"records of the kind {type(record).__name__} cannot be written as a row"
            )


def _with_tools(column: str, messages: Sequence[Message]) -> dict[str, Any]:
    row: dict[str, Any] = {column: [_message(message) for message in messages]}
    tools = messages[0].tools if messages else ()
    return {**row, "tools": [json.loads(tool) for tool in tools]} if tools else row


def _message(message: Message) -> dict[str, Any]:
    content: Any = [_part(part) for part in message.text_parts] or message.text
    optional = {
        "reasoning_content": message.reasoning,
        "tool_calls": [_call(call) for call in message.tool_calls],
        "name": message.name,
        "tool_call_id": message.tool_call_id,
    }
    given = {key: value for key, value in optional.items() if value}
    row = {"role": message.role, "content": content, **given}
    return row if message.weight == 1 else {**row, "weight": message.weight}


def _part(part: TextPart) -> dict[str, Any]:
    weight = {} if part.weight == 1 else {"weight": part.weight}
    return {"type": "text", "text": part.text, **weight}


def _call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"type": "function", **({"id": call.id} if call.id else {}), "function": function}

"""Messages in the form that chat templates read: dicts with the keys of OpenAI's chat API.

Reasoning is part of an answer's text, or a separate key for templates that read one. Tool calls are
in ``tool_calls``, with their arguments as a dict, as transformers documents it. Tool definitions
are passed to the template as ``tools``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tunesmith.records import Chat, Message, Record, ToolCall, UnpairedPreference
from tunesmith_torch.data.reasoning import CLOSING, OPENING, Answer, split_answer

__all__ = ["build_message_fields", "build_tool_fields", "unpaired_to_chat"]

Mask = Callable[[str], str]
"""Replaces the control tokens in a text with marks."""


def parse_answer(message: Message) -> Answer:
    """Split an assistant turn into reasoning and content; the reasoning may be inside its text."""
    if message.reasoning:
        return Answer(message.text, OPENING, message.reasoning, CLOSING)
    return split_answer(message.text)


def list_message_texts(message: Message) -> Iterator[str]:
    """Yield every text of a message that was written by people and may contain control tokens."""
    if message.role == "assistant":
        answer = parse_answer(message)
        yield from (answer.content, answer.reasoning)
    else:
        yield message.text
    yield from (message.name, message.tool_call_id)
    yield from map(_plain_json, message.tools)
    for call in message.tool_calls:
        yield from (call.name, call.id, _plain_json(call.arguments))


def mask_message(message: Message, text: str, mask: Mask) -> Message:
    """Return the message with this text, and with control tokens in its other fields masked."""
    return Message(
        message.role,
        text,
        tool_calls=tuple(
            ToolCall(mask(call.name), mask(_plain_json(call.arguments)), mask(call.id))
            for call in message.tool_calls
        ),
        weight=message.weight,
        name=mask(message.name),
        tool_call_id=mask(message.tool_call_id),
        tools=tuple(mask(_plain_json(definition)) for definition in message.tools),
    )


def build_message_fields(
    message: Message, answer: Answer | None, reads_reasoning_key: bool
) -> dict[str, Any]:
    """Return a message as the dict that the template gets."""
    fields: dict[str, Any] = {"role": message.role, "content": message.text}
    if reads_reasoning_key and answer is not None and answer.opening:
        fields["content"] = answer.content
        fields["thinking"] = fields["reasoning_content"] = answer.reasoning
    if message.tool_calls:
        fields["tool_calls"] = [_call_fields(call) for call in message.tool_calls]
    optional = {"name": message.name, "tool_call_id": message.tool_call_id}
    return {**fields, **{key: value for key, value in optional.items() if value}}


def _call_fields(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": json.loads(call.arguments)}
    fields: dict[str, Any] = {"type": "function", "function": function}
    return {**fields, "id": call.id} if call.id else fields


def build_tool_fields(messages: Sequence[Message]) -> list[Any] | None:
    """Return the conversation's tool definitions, or None if it has no tools."""
    return [json.loads(text) for message in messages[:1] for text in message.tools] or None


def find_missing_calls(message: Message, text: str) -> str:
    """Return the name of a tool call missing from a rendered text, or "" if no call is missing."""
    for call in message.tool_calls:
        if not all(_has(text, part) for part in (call.name, *_leaves(json.loads(call.arguments)))):
            return call.name
    return ""


def find_missing_tool(messages: Sequence[Message], text: str) -> str:
    """Return the name of a tool whose definition is missing from a rendered prompt, or ""."""
    for definition in build_tool_fields(messages) or []:
        function = definition.get("function", definition)
        if not all(_has(text, str(function.get(key, ""))) for key in ("name", "description")):
            return str(function.get("name"))
    return ""


def _leaves(value: object) -> Iterator[str]:
    """Yield the keys and strings in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield str(key)
            yield from _leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item)


def _has(text: str, part: str) -> bool:
    """Return True if a text contains a part, as it is or escaped as JSON."""
    return part in text or json.dumps(part, ensure_ascii=False)[1:-1] in text


def _plain_json(text: str) -> str:
    """Return JSON text without ``\\u`` escapes, so that control tokens in it can be found."""
    return json.dumps(json.loads(text), ensure_ascii=False)


def unpaired_to_chat(record: Record) -> Record:
    """Convert a labeled answer to a conversation trained on this answer; keep other records."""
    if not isinstance(record, UnpairedPreference):
        return record
    prompt = (replace(message, weight=0.0) for message in record.prompt)
    answer = Message("assistant", record.completion)
    return Chat(source=record.source, messages=(*prompt, answer))

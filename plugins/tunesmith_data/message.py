"""Parse messages (turns of a conversation) from JSON, in the forms that datasets use.

A message is ``{"role", "content"}``, as in OpenAI's chat API, or ``{"from", "value"}``, as in
ShareGPT. Keys that change what is learned are either read or rejected. :func:`unused_keys` lists
the others.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import cast

from tunesmith.records import ROLES, Message, Role, TextPart, ToolCall
from tunesmith_data.row import RowError, json_type
from tunesmith_data.text import require_text
from tunesmith_data.tools import parse_tool_calls, split_inline_calls, split_inline_results

ROLE_ALIASES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "developer": "system",
    "observation": "tool",
    "function": "tool",
    "ipython": "tool",
    "tool_response": "tool",
}
"""Maps role names in datasets and chat templates to the roles of tunesmith."""
CALL_ROLES = ("function_call", "tool_call")
"""Roles of turns where the assistant calls a tool; their text is the call as JSON."""

ROLE_KEYS = ("role", "from")
TEXT_KEYS = ("content", "value")
CALL_KEYS = ("tool_calls", "function_call")
REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
WEIGHT_KEYS = ("weight", "loss_weight", "train", "training", "loss")
"""Keys for a turn's weight in the loss: a number, or true or false."""
_LOSS_KEYS = (*WEIGHT_KEYS, "mask")
_KNOWN_KEYS = frozenset(
    (
        *(*ROLE_KEYS, *TEXT_KEYS, *CALL_KEYS, *REASONING_KEYS, *_LOSS_KEYS),
        *("name", "tool_call_id"),
    )
)
_CHANGES_TRAINING = re.compile(
    "weight|mask|loss|train|reason|think|thought|tool|function|image|audio|video|label"
)
"""Matches the names of keys that may change what is learned."""
_MAY_BE_ZERO = re.compile("weight|mask|loss|train|label")
"""Matches the names of keys that may change what is learned even if their value is 0 or false."""

_WITHOUT_EFFECT = ("id", "parallel_tool_calls")
"""Keys beside the messages of an object that do not affect what is learned."""
_TEXT_TYPES = ("text", "input_text", "output_text")
_REASONING_TYPES = ("reasoning", "thinking")
_PART_VALUES = ("text", "value", "content", "reasoning", "thinking")
_TEXT_PART_KEYS = frozenset(("type", *_PART_VALUES[:3], *_LOSS_KEYS))
_REASONING_PART_KEYS = frozenset(("type", *_PART_VALUES, *_LOSS_KEYS))
_CALL_PART_KEYS = frozenset(("type", "function", *_LOSS_KEYS))
_INLINE_REASONING = re.compile(r"\s*<think>\n?(.*?)\n?</think>\s*", re.DOTALL)


def parse_messages(value: object, name: str, *, split_inline: bool = True) -> tuple[Message, ...]:
    """Parse a list of messages, or a single message object.

    With ``split_inline``, reasoning and tool calls that are marked in an answer's text become
    fields of the message.

    Raises:
        RowError: the value is not a list of messages, or a message has a key that cannot be used.
    """
    if isinstance(value, dict):
        value = _unwrap(value, name) if "messages" in value else [value]
    if not isinstance(value, list):
        raise RowError(f"{name} is {json_type(value)}, not a list of messages")
    messages: list[Message] = []
    for item in value:
        for message in _messages(item, split_inline):
            before = messages[-1] if messages else None
            if before and message.role == "assistant" == before.role and _is_call(message):
                messages[-1] = _merge_call(before, message)
            else:
                messages.append(message)
    return tuple(messages)


def _unwrap(value: Mapping[str, object], name: str) -> object:
    """Return the messages of an object that contains them, such as OpenAI's ``input``."""
    others = [key for key in value if key != "messages" and key not in _WITHOUT_EFFECT]
    if others:
        raise RowError(
            f"{name} contains more than its messages",
            f"{', '.join(others)}: move it out of {name}, into a separate column",
        )
    return value["messages"]


def unused_keys(value: object) -> list[str]:
    """Return the distinct message keys in a value that are not used."""
    items = value if isinstance(value, list) else [value]
    keys = (key for item in items if isinstance(item, dict) and _has_role(item) for key in item)
    return list(dict.fromkeys(key for key in keys if key not in _KNOWN_KEYS))


def split_answer(message: Message) -> Message:
    """Move reasoning and tool calls from an answer's text to the message's fields.

    An answer whose parts have their own weights stays unchanged.

    Raises:
        RowError: the answer's text and its reasoning field contain different reasoning.
    """
    if message.text_parts:
        return message
    reasoning, text = _split_reasoning(message.text)
    if reasoning and message.reasoning not in ("", reasoning):
        raise RowError(
            "an answer has different reasoning in its text (<think>) and in its field",
            hint="keep the reasoning in one place",
        )
    calls = message.tool_calls
    text, calls = (text, calls) if calls else split_inline_calls(text)
    if text == message.text and calls == message.tool_calls:
        return message
    return replace(
        message, content=text, reasoning=reasoning or message.reasoning, tool_calls=calls
    )


def is_plain_answer(text: str) -> bool:
    """Return True if an answer is plain text, without tags of reasoning or tool calls."""
    return "<tool_call>" not in text and not ("<think>" in text and _INLINE_REASONING.match(text))


def _has_role(item: Mapping[str, object]) -> bool:
    return any(key in item for key in ROLE_KEYS)


def _messages(item: object, split_inline: bool) -> list[Message]:
    """Return the messages in a JSON object: one, or one per tool result."""
    if not isinstance(item, dict):
        raise RowError(f"a message is {json_type(item)}, not an object")
    _refuse_unknown_keys(item, "a message", _KNOWN_KEYS)
    role_name = item.get("role", item.get("from"))
    role = ROLE_ALIASES.get(role_name, role_name) if isinstance(role_name, str) else None
    value = _one_value(item, TEXT_KEYS)
    if role_name in CALL_ROLES:
        return [_call_turn(item, value, f"a {role_name} turn")]
    if role not in ROLES:
        raise RowError(
            "a message has an unknown role", f"role {role_name!r}; known: {', '.join(ROLES)}"
        )
    if role == "assistant":
        return [_assistant(item, value, split_inline)]
    return _other_turn(item, value, cast(Role, role))


def _refuse_unknown_keys(item: Mapping[str, object], what: str, known: frozenset[str]) -> None:
    """Raise an error for an unknown key in a message or content part that may matter."""
    for key, value in item.items():
        if key in known or not _CHANGES_TRAINING.search(key.lower()):
            continue
        if value or (value == 0 and _MAY_BE_ZERO.search(key.lower())):
            hint = (
                "remove the key from the data, or use one of the documented forms, such as "
                '"train": false'
            )
            raise RowError(f"{what} has the key `{key}`, which cannot be used", hint=hint)


def _one_value(item: Mapping[str, object], keys: tuple[str, ...]) -> object:
    """Return the value that these keys share, or None if no key is set.

    Raises:
        RowError: the values differ.
    """
    found = {key: item[key] for key in keys if item.get(key) is not None}
    values = list(found.values())
    if any(value != values[0] for value in values):
        names = " and ".join(f"`{key}`" for key in found)
        raise RowError(f"{names} of a message differ", hint="keep only one of them")
    return values[0] if values else None


def _other_turn(item: Mapping[str, object], value: object, role: Role) -> list[Message]:
    """Return the messages of a turn by the system, the user or a tool."""
    for key in (*REASONING_KEYS, *CALL_KEYS):
        if item.get(key):
            raise RowError(
                f"a {role} turn has `{key}`, which only the assistant's turns have",
                hint="remove the key, or move it to an assistant message",
            )
    text, _, _ = _content(value, role)
    content = "".join(part.text for part in text)
    _weight(item, role)
    name = _optional_text(item, "name")
    if role != "tool":
        return [Message(role, content, name=name)]
    call_id = _optional_text(item, "tool_call_id")
    return [
        Message("tool", result, name=name, tool_call_id=call_id)
        for result in split_inline_results(content)
    ]


def _call_turn(item: Mapping[str, object], value: object, turn: str) -> Message:
    """Return a turn whose content is a tool call."""
    calls = parse_tool_calls(value, turn)
    if any(item.get(key) for key in CALL_KEYS):
        raise RowError(
            f"{turn} has tool calls both in `content` and in `tool_calls`",
            hint="keep the calls in `tool_calls` only",
        )
    reasoning, weight = _reasoning(item, ""), _weight(item, "assistant")
    return Message("assistant", "", reasoning=reasoning, tool_calls=calls, weight=weight)


def _assistant(item: Mapping[str, object], value: object, split_inline: bool) -> Message:
    calls = tuple(call for key in CALL_KEYS for call in parse_tool_calls(item.get(key), f"`{key}`"))
    parts, part_reasoning, part_calls = ([], "", ()) if value is None else _content(value, "")
    if value is None and not calls:
        raise RowError(
            "the content is null, not text",
            hint="write a text as the content, or remove the message",
        )
    if calls and part_calls:
        raise RowError(
            "a message has tool calls both in `content` and in `tool_calls`",
            hint="keep the calls in `tool_calls` only",
        )
    reasoning, weight = _reasoning(item, part_reasoning), _weight(item, "assistant")
    calls = calls or part_calls
    message = Message(
        "assistant",
        tuple(parts),
        reasoning=reasoning,
        tool_calls=calls,
        weight=weight,
        name=_optional_text(item, "name"),
    )
    return split_answer(message) if split_inline else message


def _reasoning(item: Mapping[str, object], part_reasoning: str) -> str:
    texts = [require_text(item[key], f"`{key}`") for key in REASONING_KEYS if item.get(key)]
    found = list(dict.fromkeys([*texts, *([part_reasoning] if part_reasoning else [])]))
    if len(found) > 1:
        raise RowError(
            "a message has two different reasoning texts", hint="keep one of the two texts"
        )
    return found[0] if found else ""


def _optional_text(item: Mapping[str, object], key: str) -> str:
    return "" if item.get(key) is None else require_text(item[key], f"`{key}`")


def _content(value: object, role: str) -> tuple[list[TextPart], str, tuple[ToolCall, ...]]:
    """Return the text, the reasoning and the tool calls of a message's content."""
    if not isinstance(value, list):
        return [TextPart(require_text(value, "content"))], "", ()
    texts: list[TextPart] = []
    reasoning: list[str] = []
    calls: list[ToolCall] = []
    for part in value:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in _TEXT_TYPES:
            if calls:
                raise RowError(
                    "the content has text after a tool call",
                    hint="put the text before the tool call",
                )
            _refuse_unknown_keys(part, "a part of text", _TEXT_PART_KEYS)
            texts.append(TextPart(_part_text(part), _weight(part, role or "assistant")))
        elif kind in _REASONING_TYPES and not role:
            if texts or calls:
                raise RowError(
                    "the content has reasoning after text", hint="put the reasoning before the text"
                )
            _refuse_unknown_keys(part, "a part of reasoning", _REASONING_PART_KEYS)
            _refuse_weight(part)
            reasoning.append(_part_text(part))
        elif kind == "tool_call" and not role:
            _refuse_unknown_keys(part, "a tool_call part", _CALL_PART_KEYS)
            _refuse_weight(part)
            calls += parse_tool_calls(part.get("value", part), "a tool_call part")
        else:
            raise _unknown_part(part, kind)
    return texts, "\n".join(reasoning), tuple(calls)


def _unknown_part(part: object, kind: object) -> RowError:
    shown = json_type(part) if kind is None else repr(kind)
    hint = "only text can be trained on: remove rows with images, audio or video"
    return RowError("the content has a part that is not text", f"part of type {shown}", hint=hint)


def _part_text(part: Mapping[str, object]) -> str:
    return require_text(_one_value(part, _PART_VALUES), "content")


def _refuse_weight(part: Mapping[str, object]) -> None:
    if _weight(part, "assistant") != 1:
        hint = "give the weight to the whole message"
        raise RowError("only text parts can have a `weight`; this part is not text", hint=hint)


def _weight(item: Mapping[str, object], role: str) -> float:
    """Return the loss weight of a message or content part, which is 1 by default.

    Raises:
        RowError: the weight is invalid, or a turn that is not the assistant's is marked for
            training.
    """
    stated = [_weight_of(item[key], key) for key in WEIGHT_KEYS if item.get(key) is not None]
    if (mask := item.get("mask")) is not None:
        if not isinstance(mask, bool):
            hint = 'write "train": true or "train": false instead of the mask'
            raise RowError(
                f"`mask` of a message is {json_type(mask)}, not true or false", hint=hint
            )
        stated.append(float(not mask))
    if role == "assistant":
        return math.prod(stated)
    if any(stated):
        hint = "only the assistant's turns can be trained on: set the weight of the others to 0"
        raise RowError(f"a {role} turn is marked for training", hint=hint)
    return 1.0


def _weight_of(value: object, key: str) -> float:
    if isinstance(value, int | float) and 0 <= value < math.inf:
        return float(value)
    raise RowError(
        f"`{key}` of a message is not a number of at least 0",
        repr(value),
        hint="write a number, such as 0 or 1",
    )


def _split_reasoning(text: str) -> tuple[str, str]:
    """Split an answer into the reasoning between ``<think>`` tags at its start, and the rest.

    An empty block stays in the text, because it tells some models not to reason.
    """
    found = _INLINE_REASONING.match(text)
    if found is None or not found.group(1).strip():
        return "", text
    return found.group(1), text[found.end() :]


def _is_call(message: Message) -> bool:
    return bool(message.tool_calls) and not message.text and not message.reasoning


def _merge_call(before: Message, call: Message) -> Message:
    """Merge an answer and the tool call in the turn after it into one turn."""
    if before.weight != call.weight:
        raise RowError(
            "an answer and its tool call have different weights",
            hint="give both messages the same weight",
        )
    return replace(before, tool_calls=(*before.tool_calls, *call.tool_calls))

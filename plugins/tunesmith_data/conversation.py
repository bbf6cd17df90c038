"""Conversations from JSON: parse messages in both common forms, and check the order of turns."""

from __future__ import annotations

import re
from typing import cast

from tunesmith.records import ROLES, Message, Role
from tunesmith_data.row import RowError, json_type

ROLE_ALIASES = {"human": "user", "gpt": "assistant"}
"""ShareGPT's role names, and ours."""
UNUSABLE_CHARACTERS = re.compile("[\0\ud800-\udfff]")
"""NUL, and lone surrogates, which UTF-8 cannot encode."""

NEXT_ROLES = {
    "start": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("assistant", "tool"),
}
"""Roles that may follow a turn, after an optional system message."""

TRANSCRIPT_TURN = re.compile(r"\n\n(Human|Assistant):[ ]?")
"""The header of a turn in a transcript such as Anthropic's hh-rlhf data."""


def require_text(value: object, name: str) -> str:
    """Return ``value`` unchanged if it is text that can be encoded as UTF-8.

    Raises:
        RowError: it is not; ``name`` is the name of the value in the message.
    """
    if not isinstance(value, str):
        raise RowError(f"{name} is {json_type(value)}, not text", repr(value))
    found = UNUSABLE_CHARACTERS.search(value)
    if found is None:
        return value
    if found.group() == "\0":
        raise RowError(f"{name} holds a NUL character", f"character {found.start() + 1}")
    detail = f"character {found.start() + 1} is U+{ord(found.group()):04X}"
    raise RowError(f"{name} holds half a surrogate pair", detail)


def parse_messages(value: object, name: str) -> tuple[Message, ...]:
    """Return the messages of a list, each with ``role``/``content`` or ``from``/``value``.

    Raises:
        RowError: not a list of messages, or messages with tool calls or weights.
    """
    if not isinstance(value, list):
        raise RowError(f"{name} is {json_type(value)}, not a list of messages")
    return tuple(_message(item) for item in value)


def _message(item: object) -> Message:
    if not isinstance(item, dict):
        raise RowError(f"a message is {json_type(item)}, not an object")
    # Ignoring these keys would silently change the training data.
    if item.get("tool_calls") or item.get("function_call"):
        raise RowError("a message calls a tool, which records cannot hold")
    if item.get("weight", 1) != 1:
        raise RowError("a message has a weight, which records cannot hold")
    role_name = item.get("role", item.get("from"))
    role = ROLE_ALIASES.get(role_name, role_name) if isinstance(role_name, str) else None
    if role not in ROLES:
        raise RowError(
            "a message has an unknown role", f"role {role_name!r}; known: {', '.join(ROLES)}"
        )
    return Message(cast(Role, role), _content(item.get("content", item.get("value"))))


def _content(value: object) -> str:
    """Return a message's text; a list of text parts is joined, like in chat templates."""
    if isinstance(value, list):
        return "".join(_part(part) for part in value)
    return require_text(value, "content")


def _part(part: object) -> str:
    if isinstance(part, dict) and part.get("type") == "text":
        return require_text(part.get("text"), "content")
    kind = part.get("type") if isinstance(part, dict) else json_type(part)
    raise RowError("content has a part that is not text", f"part of type {kind!r}")


def parse_transcript(text: str) -> tuple[Message, ...] | None:
    r"""Return the turns of a ``\n\nHuman: ...\n\nAssistant: ...`` transcript; None if it is not
    one.
    """
    before, *pieces = TRANSCRIPT_TURN.split(text)
    if before or not pieces:
        return None
    speakers: tuple[Role, ...] = tuple(
        "user" if speaker == "Human" else "assistant" for speaker in pieces[::2]
    )
    return tuple(map(Message, speakers, pieces[1::2]))


def check_conversation(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Return the messages unchanged if they are a conversation that ends with an answer.

    Raises:
        RowError: turns are missing, empty or in the wrong order.
    """
    if not messages:
        raise RowError("conversation is empty")
    turns = messages[1:] if messages[0].role == "system" else messages
    before = "start"
    for message in turns:
        if message.role not in NEXT_ROLES[before]:
            raise RowError(_order_cause(before, message.role))
        if message.role in ("user", "assistant"):
            require_not_blank(
                message.content, "answer" if message.role == "assistant" else "prompt"
            )
        before = message.role
    if before != "assistant":
        raise RowError("last turn is not the assistant's")
    return messages


def _order_cause(before: str, role: str) -> str:
    if role == "system":
        return "system message after the start"
    if before == "start":
        return f"conversation starts with the {role}"
    if role == before:
        return f"two {role} turns in a row"
    if role == "tool":
        return "tool turn without a call by the assistant"
    return f"{role} turn right after a {before} turn"


def require_not_blank(text: str, name: str) -> str:
    """Return ``text`` unchanged if it contains more than white space.

    Raises:
        RowError: it does not.
    """
    if not text or text.isspace():
        raise RowError(f"{name} is empty")
    return text


def prepend_system(messages: tuple[Message, ...], system: str | None) -> tuple[Message, ...]:
    """Return the conversation with a system message in front."""
    if system is None:
        return messages
    return (Message("system", system), *messages)


def has_system_message(messages: tuple[Message, ...]) -> bool:
    """Return True if the conversation begins with a system message."""
    return bool(messages) and messages[0].role == "system"

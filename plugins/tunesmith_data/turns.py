"""Conversations out of JSON: messages in either spelling, and the order their turns must have."""

from __future__ import annotations

import re
from typing import cast

from tunesmith.records import ROLES, Message, Role
from tunesmith_data.row import Fault, kind_of

ROLE_ALIASES = {"human": "user", "gpt": "assistant"}
UNUSABLE = re.compile("[\0\ud800-\udfff]")

FOLLOWERS = {
    "start": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("assistant", "tool"),
}
"""Which turns may follow which, after an optional system message."""

TRANSCRIPT = re.compile(r"\n\n(Human|Assistant):[ ]?")


def clean(value: object, what: str) -> str:
    """``value`` if it is text that can be encoded as UTF-8; the text itself is never changed."""
    if not isinstance(value, str):
        raise Fault(f"{what} is {kind_of(value)}, not text", repr(value))
    found = UNUSABLE.search(value)
    if found is None:
        return value
    if found.group() == "\0":
        raise Fault(f"{what} holds a NUL character", f"character {found.start() + 1}")
    detail = f"character {found.start() + 1} is U+{ord(found.group()):04X}"
    raise Fault(f"{what} holds half a surrogate pair", detail)


def messages_of(value: object, what: str) -> tuple[Message, ...]:
    """A list of messages, each ``role``/``content`` or ``from``/``value``."""
    if not isinstance(value, list):
        raise Fault(f"{what} is {kind_of(value)}, not a list of messages")
    return tuple(_message(item) for item in value)


def _message(item: object) -> Message:
    if not isinstance(item, dict):
        raise Fault(f"a message is {kind_of(item)}, not an object")
    # Anything here that changes what is learned must not be dropped without a word.
    if item.get("tool_calls") or item.get("function_call"):
        raise Fault("a message calls a tool, which records cannot hold")
    if item.get("weight", 1) != 1:
        raise Fault("a message has a weight, which records cannot hold")
    named = item.get("role", item.get("from"))
    role = ROLE_ALIASES.get(named, named) if isinstance(named, str) else None
    if role not in ROLES:
        raise Fault("a message has an unknown role", f"role {named!r}; known: {', '.join(ROLES)}")
    return Message(cast(Role, role), _content(item.get("content", item.get("value"))))


def _content(value: object) -> str:
    """A message's text; a list of text parts is joined, as chat templates do."""
    if isinstance(value, list):
        return "".join(_part(part) for part in value)
    return clean(value, "content")


def _part(part: object) -> str:
    if isinstance(part, dict) and part.get("type") == "text":
        return clean(part.get("text"), "content")
    kind = part.get("type") if isinstance(part, dict) else kind_of(part)
    raise Fault("content has a part that is not text", f"part of type {kind!r}")


def transcript(text: str) -> tuple[Message, ...] | None:
    r"""Turns of a ``\n\nHuman: ...\n\nAssistant: ...`` transcript; None if it is not one."""
    before, *pieces = TRANSCRIPT.split(text)
    if before or not pieces:
        return None
    speakers: tuple[Role, ...] = tuple(
        "user" if speaker == "Human" else "assistant" for speaker in pieces[::2]
    )
    return tuple(map(Message, speakers, pieces[1::2]))


def check_turns(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The same messages, if they are a conversation that ends in an answer to learn."""
    if not messages:
        raise Fault("conversation is empty")
    turns = messages[1:] if messages[0].role == "system" else messages
    before = "start"
    for message in turns:
        if message.role not in FOLLOWERS[before]:
            raise Fault(_order_cause(before, message.role))
        if message.role in ("user", "assistant"):
            require(message.content, "answer" if message.role == "assistant" else "prompt")
        before = message.role
    if before != "assistant":
        raise Fault("last turn is not the assistant's")
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


def require(text: str, what: str) -> str:
    """``text`` unchanged, if more than white space stands in it."""
    if not text or text.isspace():
        raise Fault(f"{what} is empty")
    return text


def with_system(messages: tuple[Message, ...], system: str | None) -> tuple[Message, ...]:
    """The conversation with a system message in front."""
    if system is None:
        return messages
    return (Message("system", system), *messages)


def has_system(messages: tuple[Message, ...]) -> bool:
    """Whether the conversation brings its own system message."""
    return bool(messages) and messages[0].role == "system"

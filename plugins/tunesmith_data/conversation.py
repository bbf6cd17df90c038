"""Conversations: the order of their turns, their system prompt and their tools."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from tunesmith.records import Message, Role
from tunesmith_data.row import RowError
from tunesmith_data.text import require_not_blank

NEXT_ROLES = {
    "start": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("assistant", "tool"),
}
"""Roles that may follow a turn, after an optional system message."""

TRANSCRIPT_TURN = re.compile(r"\n\n(Human|Assistant):[ ]?")
"""The header of a turn in a transcript such as Anthropic's hh-rlhf data."""


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
        RowError: turns are missing, empty or in the wrong order, or none is to be trained.
    """
    if not messages:
        raise RowError("conversation is empty")
    turns = messages[1:] if messages[0].role == "system" else messages
    before = "start"
    for message in turns:
        if message.role not in NEXT_ROLES[before]:
            raise RowError(_order_cause(before, message.role))
        if message.role == "user":
            require_not_blank(message.text, "prompt")
        if message.role == "assistant" and not message.tool_calls:
            require_not_blank(message.text, "answer")
        before = message.role
    if before != "assistant":
        raise RowError("last turn is not the assistant's")
    if not any(message.is_trained for message in turns):
        hint = "every answer has the weight 0: remove the row, or train one of its answers"
        raise RowError("no answer of the conversation is trained", hint=hint)
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


def prepend_system(messages: tuple[Message, ...], system: str | None) -> tuple[Message, ...]:
    """Return the conversation with a system message in front."""
    if system is None:
        return messages
    return (Message("system", system), *messages)


def has_system_message(messages: tuple[Message, ...]) -> bool:
    """Return True if the conversation begins with a system message."""
    return bool(messages) and messages[0].role == "system"


def without_system(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Return the conversation without its system message, which one of two columns may lack."""
    return messages[1:] if has_system_message(messages) else messages


def with_tools(messages: tuple[Message, ...], tools: Sequence[str]) -> tuple[Message, ...]:
    """Return the conversation with the definitions of its tools in the first message.

    A system prompt that lists the tools between ``<tools>`` marks, as those of the Hermes models
    do, has them already.
    """
    if not tools or not messages:
        return messages
    first, *others = messages
    if has_system_message(messages) and "<tools>" in first.text:
        return messages
    return (replace(first, tools=tuple(tools)), *others)

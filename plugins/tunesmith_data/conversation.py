"""Check the order of turns in a conversation, and add its system prompt and tools."""

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
"""Roles that may follow a turn with each role; a system message may precede the first turn."""

TRANSCRIPT_TURN = re.compile(r"\n\n(Human|Assistant):[ ]?")
"""The header of a turn in transcripts such as Anthropic's hh-rlhf data."""


def parse_transcript(text: str) -> tuple[Message, ...] | None:
    r"""Parse a ``\n\nHuman: ...\n\nAssistant: ...`` transcript; return None for any other text."""
    before, *pieces = TRANSCRIPT_TURN.split(text)
    if before or not pieces:
        return None
    speakers: tuple[Role, ...] = tuple(
        "user" if speaker == "Human" else "assistant" for speaker in pieces[::2]
    )
    return tuple(map(Message, speakers, pieces[1::2]))


def check_conversation(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Return the messages unchanged if they form a conversation that ends with an answer.

    Raises:
        RowError: turns are missing, empty or in the wrong order, or no answer is to be trained on.
    """
    if not messages:
        raise RowError("conversation is empty", hint="add messages, or remove the row")
    turns = messages[1:] if messages[0].role == "system" else messages
    before = "start"
    for message in turns:
        if message.role not in NEXT_ROLES[before]:
            raise RowError(
                _order_cause(before, message.role),
                hint="alternate user and assistant messages, with tool results after tool calls",
            )
        if message.role == "user":
            require_not_blank(message.text, "prompt")
        if message.role == "assistant" and not message.tool_calls:
            require_not_blank(message.text, "answer")
        before = message.role
    require_final_answer(messages)
    if not any(message.is_trained for message in turns):
        hint = "every answer has weight 0: remove the row, or give an answer a positive weight"
        raise RowError("no answer in the conversation is trained on", hint=hint)
    return messages


def require_final_answer(messages: tuple[Message, ...], prefix: str = "") -> None:
    """Check that the last message is the assistant's; ``prefix`` names the column in the error.

    Raises:
        RowError: there are no messages, or the last message has another role.
    """
    if not messages:
        raise RowError(f"{prefix}conversation is empty", hint="add messages, or remove the row")
    if messages[-1].role != "assistant":
        raise RowError(
            f'{prefix}the last message must have the role "assistant"',
            f'got "{messages[-1].role}"',
            hint="end the conversation with an assistant message, or remove the row",
        )


def _order_cause(before: str, role: str) -> str:
    if role == "system":
        return "a system message is not at the start"
    if before == "start":
        return f"conversation starts with the {role}"
    if role == before:
        return f"two {role} turns in a row"
    if role == "tool":
        return "a tool turn has no call by the assistant before it"
    return f"a {role} turn directly follows a {before} turn"


def prepend_system(messages: tuple[Message, ...], system: str | None) -> tuple[Message, ...]:
    """Put a system message before the conversation, unless ``system`` is None."""
    if system is None:
        return messages
    return (Message("system", system), *messages)


def has_system_message(messages: tuple[Message, ...]) -> bool:
    """Return True if the conversation starts with a system message."""
    return bool(messages) and messages[0].role == "system"


def remove_system(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Drop the system message, if the conversation starts with one."""
    return messages[1:] if has_system_message(messages) else messages


def add_tools(messages: tuple[Message, ...], tools: Sequence[str]) -> tuple[Message, ...]:
    """Attach tool definitions to the first message of a conversation.

    A system prompt that already lists tools between ``<tools>`` tags, as for Hermes models, stays
    unchanged.
    """
    if not tools or not messages:
        return messages
    first, *others = messages
    if has_system_message(messages) and "<tools>" in first.text:
        return messages
    return (replace(first, tools=tuple(tools)), *others)

"""Split answers with tool calls into text and calls, complete or streamed."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from typing import Any

from tunesmith_evidence.answers.tool_calls import Call, count_settled_characters, split_tool_calls


class StreamedTurn:
    """The text and the tool calls of an answer that arrives in parts.

    Text that may become a call is held back, so that the parts together equal the result of
    :func:`split_known_calls`.
    """

    def __init__(self, tools: frozenset[str]) -> None:
        self._tools = tools
        self._text = ""
        self._sent = 0

    def update(self, new: str, is_complete: bool) -> tuple[str | None, list[Call]]:
        """Return the text to send (None for nothing) and, at the end of the answer, the calls."""
        self._text += new
        content, calls = self._text, list[Call]()
        if is_complete:
            content, calls = split_known_calls(self._text, self._tools)
        elif self._tools:
            content = self._text[: count_settled_characters(self._text)]
        part = content[self._sent :]
        self._sent += len(part)
        is_empty_answer = is_complete and not self._sent and not calls
        return (part if part or is_empty_answer else None), calls


def split_known_calls(text: str, tools: frozenset[str]) -> tuple[str, list[Call]]:
    """Return the text before the calls in an answer, and the calls of known tools.

    If an answer calls an unknown tool, return the whole answer as text.
    """
    before, calls = split_tool_calls(text) if tools else (text, [])
    if not calls or not {name for name, _ in calls} <= tools:
        return text, []
    return before, calls


def write_calls(calls: Sequence[Call]) -> list[dict[str, Any]]:
    """Return calls in the format of OpenAI's API, each with a new id."""
    return [
        {
            "id": f"call_{secrets.token_hex(12)}",
            "type": "function",
            "function": {
                "name": name,
                "arguments": arguments
                if isinstance(arguments, str)
                else json.dumps(arguments, ensure_ascii=False),
            },
        }
        for name, arguments in calls
    ]

"""Check the texts of rows, and build the text that records are compared by."""

from __future__ import annotations

import re
from collections.abc import Iterable

from tunesmith.records import (
    Chat,
    Completion,
    Message,
    Preference,
    Record,
    Text,
    UnpairedPreference,
)
from tunesmith_data.row import RowError, json_type

__all__ = ["UNSPACED", "content_key"]

UNUSABLE_CHARACTERS = re.compile("[\0\ud800-\udfff]")
"""NUL, and lone surrogates (which UTF-8 cannot encode)."""
MEDIA_SIGNS = re.compile("[\U00100000-\U0010ffff]")
"""Private-use characters that plugins may put in place of media, such as images, in a text."""
SCRIPTS_WITHOUT_SPACES = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x3040, 0x30FF),  # kana
    (0x3400, 0x9FFF),  # Han
)
"""First and last code points of scripts that put no spaces between words."""
UNSPACED = "".join(f"{chr(first)}-{chr(last)}" for first, last in SCRIPTS_WITHOUT_SPACES)
"""The same characters, for a set in a regular expression."""


def require_text(value: object, name: str) -> str:
    """Return ``value`` unchanged if it is text that can be encoded as UTF-8.

    Args:
        value: the value to check.
        name: name of the value in error messages.

    Raises:
        RowError: the value is not text, or contains an unusable character.
    """
    if not isinstance(value, str):
        raise RowError(f"{name} is {json_type(value)}, not text", repr(value))
    if value.isascii() and "\0" not in value:  # far faster than the search
        return value
    found = UNUSABLE_CHARACTERS.search(value)
    if found is None:
        return value
    if found.group() == "\0":
        raise RowError(
            f"{name} contains a NUL character",
            f"character {found.start() + 1}",
            hint="remove the character",
        )
    detail = f"character {found.start() + 1} is U+{ord(found.group()):04X}"
    raise RowError(f"{name} contains half of a surrogate pair", detail, hint="remove the character")


def require_not_blank(text: str, name: str) -> str:
    """Return ``text`` unchanged if it contains more than white space.

    Raises:
        RowError: the text is blank; ``name`` is its name in the message.
    """
    if not text or text.isspace():
        raise RowError(f"{name} is empty")
    return text


def content_key(record: Record) -> str:
    """Return the text that splits and leak checks compare records by.

    Raises:
        TypeError: a plugin defines this kind of record.
    """
    match record:
        case Text():
            return record.text
        case Completion():
            return f"{record.prompt}\n{record.completion}"
        case Chat():
            return _messages_key(record.messages)
        case Preference():
            return f"{_messages_key(record.prompt)}\n{record.chosen}\n{record.rejected}"
        case UnpairedPreference():
            return f"{_messages_key(record.prompt)}\n{record.completion}\n{record.label}"
        case _:
            raise TypeError(
                f"records of the kind {type(record).__name__} have no comparable content"
            )


def _messages_key(messages: Iterable[Message]) -> str:
    return "\n".join(
        text
        for message in messages
        for text in (
            *message.tools,
            *filter(None, (message.reasoning,)),
            message.shown_text,
            *(f"{call.name} {call.arguments}" for call in message.tool_calls),
        )
    )

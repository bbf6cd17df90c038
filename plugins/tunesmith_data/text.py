"""Text in rows: checks that every text of a record has passed."""

from __future__ import annotations

import re

from tunesmith_data.row import RowError, json_type

UNUSABLE_CHARACTERS = re.compile("[\0\ud800-\udfff]")
"""NUL, and lone surrogates, which UTF-8 cannot encode."""


def require_text(value: object, name: str) -> str:
    """Return ``value`` unchanged if it is text that can be encoded as UTF-8.

    Raises:
        RowError: it is not; ``name`` is the name of the value in the message.
    """
    if not isinstance(value, str):
        raise RowError(f"{name} is {json_type(value)}, not text", repr(value))
    if value.isascii() and "\0" not in value:  # far faster than the search
        return value
    found = UNUSABLE_CHARACTERS.search(value)
    if found is None:
        return value
    if found.group() == "\0":
        raise RowError(f"{name} holds a NUL character", f"character {found.start() + 1}")
    detail = f"character {found.start() + 1} is U+{ord(found.group()):04X}"
    raise RowError(f"{name} holds half a surrogate pair", detail)


def require_not_blank(text: str, name: str) -> str:
    """Return ``text`` unchanged if it contains more than white space.

    Raises:
        RowError: it does not.
    """
    if not text or text.isspace():
        raise RowError(f"{name} is empty")
    return text

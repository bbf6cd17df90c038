"""Rows whose record holds their columns as they are, which most rows do.

Such a row passed all checks when it was first read, and nothing of it was changed. When it is read
again, its record is built from the same columns, several times faster than by its format.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tunesmith.records import Chat, Completion, Message, Record, Text
from tunesmith_data.row import Fields

CHANGED, COMPLETION, TEXT, CHAT = range(4)
"""The kinds of rows: those that are not copied, and what the copies of the others are."""


class CopiedRows:
    """Tells the rows of one file that are copied, and builds their records.

    ``columns`` are those of the texts, or of the conversation, in the order of the format.
    """

    def __init__(self, name: str, columns: Sequence[str]) -> None:
        self._name = name
        self._columns = tuple(columns)

    def kind(self, record: Record, fields: Fields) -> int:
        """Return the kind of a row, of which this is the record."""
        if record.group is not None or record.slices:
            return CHANGED
        values = [fields.get(column) for column in self._columns]
        match record:
            case Completion() if len(values) == 2:
                is_copy = record.prompt is values[0] and record.completion is values[1]
                return COMPLETION if is_copy else CHANGED
            case Text() if len(values) == 1:
                return TEXT if record.text is values[0] else CHANGED
            case Chat() if len(values) == 1 and isinstance(values[0], list):
                return CHAT if record.messages == _messages(values[0]) else CHANGED
        return CHANGED

    def build(self, kind: int, line: int, fields: Any) -> Record:
        """Return the record of a row that was read once more."""
        source = f"{self._name}:{line}"
        if kind == COMPLETION:
            prompt, completion = self._columns
            return Completion(source=source, prompt=fields[prompt], completion=fields[completion])
        (column,) = self._columns
        if kind == TEXT:
            return Text(source=source, text=fields[column])
        return Chat(source=source, messages=_messages(fields[column]))


def _messages(items: Sequence[Any]) -> tuple[Message, ...]:
    """Return the messages of JSON objects if these have a role and a content only, else none."""
    if any(type(item) is not dict or item.keys() != _KEYS for item in items):
        return ()
    return tuple([Message(item["role"], item["content"]) for item in items])


_KEYS = {"role", "content"}

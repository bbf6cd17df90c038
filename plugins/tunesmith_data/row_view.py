"""Read the values of a row by a format's field names instead of its column names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tunesmith.records import Message
from tunesmith_data.conversation import add_tools, has_system_message, prepend_system
from tunesmith_data.message import parse_messages
from tunesmith_data.row import Fields, RowError, json_type
from tunesmith_data.text import require_text
from tunesmith_data.tools import parse_tools

_TEXTS = frozenset(("prompt", "completion", "instruction", "input", "output"))
_LABELS = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True, slots=True)
class RowView:
    """A row whose values are read by field names."""

    source: str
    row: Fields
    columns: Mapping[str, str]
    default_system: str | None
    unread: tuple[str, ...] = ()
    """Columns that are not read although they are named like fields of a format."""

    @property
    def has_texts_only(self) -> bool:
        """True if the row has only the texts of a question and an answer."""
        return self.default_system is None and self.columns.keys() <= _TEXTS

    def value(self, name: str) -> object:
        """Return the value of a field, or None if the column or its value is missing."""
        return self.row.get(self.columns[name]) if name in self.columns else None

    def text(self, name: str) -> str:
        """Return the text of a field.

        Raises:
            RowError: the value is not text.
        """
        return require_text(self.value(name), f"`{self.columns[name]}`")

    def optional_text(self, name: str) -> str | None:
        """Return the text of a field, or None if it has no value."""
        return None if self.value(name) is None else self.text(name)

    def label(self) -> bool | None:
        """Return True for an answer labeled good, and False for an answer labeled bad.

        The result is None if there is no label.

        Raises:
            RowError: the label is neither true nor false.
        """
        value = self.value("label")
        if value is None:
            return None
        known = value if isinstance(value, str) else str(value)
        if known.strip().lower() in _LABELS:
            return _LABELS[known.strip().lower()]
        column = self.columns["label"]
        hint = f'to train without it: ignore = ["{column}"], or slices = ["{column}"]'
        raise RowError(f"`{column}` is neither true nor false", repr(value), hint=hint)

    def system(self) -> str | None:
        """Return the row's system prompt, otherwise the default for all rows; None if unset."""
        return self._own_system() or self.default_system

    def _own_system(self) -> str | None:
        """Return the system prompt in the row's column, or None if it is blank, as in CSV files."""
        text = self.optional_text("system")
        return text if text and text.strip() else None

    def messages(self, name: str) -> tuple[Message, ...]:
        """Return the conversation in a field, without checking its turns."""
        is_plain = self.label() is not None
        column = f"`{self.columns[name]}`"
        return parse_messages(self.value(name), column, split_inline=not is_plain)

    def open_conversation(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """Add the row's system prompt and tools to a conversation.

        Raises:
            RowError: both the conversation and the row's column have a system prompt.
        """
        if not has_system_message(messages):
            messages = prepend_system(messages, self.system())
        elif self._own_system() is not None:
            raise RowError("the row has two system messages", hint="keep only one system message")
        if "tools" not in self.columns:
            return messages
        return add_tools(messages, parse_tools(self.value("tools"), f"`{self.columns['tools']}`"))

    def unread_texts(self) -> Iterator[tuple[str, str]]:
        """Yield column and text of each value that another format would read but this one does not.

        The columns are those in ``unread``; a value can contain several texts.
        """
        for column in self.unread:
            for text in _texts(self.row.get(column)):
                yield column, text


def _texts(value: object) -> Iterator[str]:
    """Yield the texts in a value: the value itself, or the texts of its messages."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, dict):
        yield from _texts(value.get("content", value.get("value")))


def label_text(row: Fields, column: str) -> str | None:
    """Return a group or slice value as text, or None if the row has none.

    Raises:
        RowError: the value is not text, an integer or a Boolean.
    """
    value = row.get(column)
    if value is None or value == "":
        return None
    if isinstance(value, str):
        return require_text(value, f"`{column}`")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    raise RowError(f"`{column}` is {json_type(value)}, not a label", repr(value))

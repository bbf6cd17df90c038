"""Row formats: recognize a row by its columns, and build the record from it.

The fields of a format have fixed names, such as ``prompt`` and ``completion``. A
:class:`FormatMatch` states in which columns of a file these fields are. It is found from the
columns of a row, the usual names of each field, and the user's own mapping (``columns`` in the run
file).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from tunesmith.records import Chat, Completion, Message, Preference, Record, Text
from tunesmith_data.conversation import (
    check_conversation,
    has_system_message,
    parse_messages,
    parse_transcript,
    prepend_system,
    require_not_blank,
    require_text,
)
from tunesmith_data.row import Fields, RowError, json_type


@dataclass(frozen=True, slots=True)
class RowView:
    """One row, read by field names instead of column names."""

    source: str
    row: Fields
    columns: Mapping[str, str]
    default_system: str | None

    def value(self, name: str) -> object:
        """Return the value of a field; None if the column or its value is missing."""
        return self.row.get(self.columns[name]) if name in self.columns else None

    def text(self, name: str) -> str:
        """Return the text of a field.

        Raises:
            RowError: the value is not text.
        """
        return require_text(self.value(name), f"`{self.columns[name]}`")

    def optional_text(self, name: str) -> str | None:
        """Return the text of a field; None if there is no value."""
        return None if self.value(name) is None else self.text(name)

    def system(self) -> str | None:
        """Return the row's own system prompt, or else the one for all rows."""
        prompt_column = self.optional_text("system")
        return self.default_system if prompt_column is None else prompt_column

    def messages(self, name: str) -> tuple[Message, ...]:
        """Return the conversation in a field with its system prompt; the turns are not checked."""
        messages = parse_messages(self.value(name), f"`{self.columns[name]}`")
        return self.prepend_system(messages)

    def prepend_system(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """Return the conversation with a system prompt, unless it already begins with one.

        Raises:
            RowError: it begins with one, and the row has another in its column.
        """
        if not has_system_message(messages):
            return prepend_system(messages, self.system())
        if self.optional_text("system") is not None:
            raise RowError("two system messages")
        return messages


Build: TypeAlias = Callable[[RowView], Record]


@dataclass(frozen=True, slots=True)
class Format:
    """A row format: its required and optional fields, each with the usual column names."""

    name: str
    title: str
    required: Mapping[str, tuple[str, ...]]
    build: Build
    optional: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def fields(self) -> tuple[str, ...]:
        """The field names that a mapping of columns may use."""
        return (*self.required, *self.optional)


@dataclass(frozen=True, slots=True)
class FormatMatch:
    """A format, and the columns of its fields in a file."""

    format: Format
    columns: Mapping[str, str]

    @property
    def required_columns(self) -> dict[str, str]:
        """The columns that a row of this format must have, by field name."""
        return {name: self.columns[name] for name in self.format.required}

    def is_compatible_with(self, other: FormatMatch) -> bool:
        """Return True if rows of both matches may be in one file; optional columns may differ."""
        return (
            self.format.name == other.format.name
            and self.required_columns == other.required_columns
        )

    def __str__(self) -> str:
        required_columns = ", ".join(self.required_columns.values())
        return f"{self.format.title} ({required_columns})"


def _build_text(view: RowView) -> Record:
    return Text(source=view.source, text=require_not_blank(view.text("text"), "text"))


def _build_completion(view: RowView) -> Record:
    if isinstance(view.value("prompt"), list) or isinstance(view.value("completion"), list):
        messages = (*view.prepend_system(_prompt_messages(view)), *_answer_messages(view))
        return Chat(source=view.source, messages=check_conversation(messages))
    prompt = require_not_blank(view.text("prompt"), "prompt")
    return _completion(view, prompt, view.text("completion"))


def _build_alpaca(view: RowView) -> Record:
    instruction = require_not_blank(view.text("instruction"), "prompt")
    context = view.optional_text("input")
    prompt = f"{instruction}\n\n{context}" if context else instruction
    return _completion(view, prompt, view.text("output"))


def _completion(view: RowView, prompt: str, answer: str) -> Record:
    """Return a completion record, or a chat record if there is a system prompt."""
    if view.row.get("label") is False:
        hint = "rows with label = false are bad answers: use pairs of chosen and rejected instead"
        raise RowError("answer is marked as bad by its label", hint=hint)
    require_not_blank(answer, "answer")
    system = view.system()
    if system is None:
        return Completion(source=view.source, prompt=prompt, completion=answer)
    messages = (Message("system", system), Message("user", prompt), Message("assistant", answer))
    return Chat(source=view.source, messages=messages)


def _answer_messages(view: RowView) -> tuple[Message, ...]:
    value = view.value("completion")
    if isinstance(value, list):
        return parse_messages(value, f"`{view.columns['completion']}`")
    return (Message("assistant", view.text("completion")),)


def _prompt_messages(view: RowView) -> tuple[Message, ...]:
    """Return the prompt column as messages, from text or from a list of messages."""
    value = view.value("prompt")
    if isinstance(value, list):
        return parse_messages(value, f"`{view.columns['prompt']}`")
    return (Message("user", view.text("prompt")),)


def _build_chat(view: RowView) -> Record:
    name = "messages" if "messages" in view.columns else "conversations"
    return Chat(source=view.source, messages=check_conversation(view.messages(name)))


def _build_preference(view: RowView) -> Record:
    before, chosen = _split_answer(view, "chosen")
    before_rejected, rejected = _split_answer(view, "rejected")
    if before != before_rejected:
        raise RowError("chosen and rejected differ before the last answer")
    prompt_column = () if view.value("prompt") is None else _prompt_messages(view)
    if not prompt_column and not before:
        raise RowError("has no prompt")
    if prompt_column and before and _without_system(prompt_column) != _without_system(before):
        raise RowError("prompt differs from the conversation before the chosen answer")
    prompt = view.prepend_system(
        before if has_system_message(before) or not prompt_column else prompt_column
    )
    if chosen == rejected:
        raise RowError("chosen and rejected are the same", chosen)
    check_conversation((*prompt, Message("assistant", chosen)))
    return Preference(
        source=view.source,
        prompt=prompt,
        chosen=chosen,
        rejected=require_not_blank(rejected, "answer"),
    )


def _without_system(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Return the conversation without its system message, which one of two columns may lack."""
    return messages[1:] if has_system_message(messages) else messages


def _split_answer(view: RowView, name: str) -> tuple[tuple[Message, ...], str]:
    """Return the messages before the answer in a column (often none), and the answer."""
    value = view.value(name)
    if isinstance(value, list):
        messages: tuple[Message, ...] | None = parse_messages(value, f"`{view.columns[name]}`")
    else:
        text = view.text(name)
        messages = parse_transcript(text) if view.value("prompt") is None else None
        if messages is None:
            return (), text
    if not messages or messages[-1].role != "assistant":
        raise RowError("last turn is not the assistant's")
    return messages[:-1], messages[-1].content


_SYSTEM = {"system": ("system",)}

FORMATS: tuple[Format, ...] = (
    Format(
        "preference",
        "preference pairs",
        {"chosen": ("chosen",), "rejected": ("rejected",)},
        _build_preference,
        {"prompt": ("prompt", "question", "instruction"), **_SYSTEM},
    ),
    Format("messages", "chat messages", {"messages": ("messages",)}, _build_chat, _SYSTEM),
    Format(
        "sharegpt",
        "ShareGPT conversations",
        {"conversations": ("conversations",)},
        _build_chat,
        _SYSTEM,
    ),
    Format(
        "alpaca",
        "Alpaca instructions",
        {"instruction": ("instruction",), "output": ("output",)},
        _build_alpaca,
        {"input": ("input",), **_SYSTEM},
    ),
    Format(
        "completion",
        "prompts and completions",
        {
            "prompt": ("prompt", "question", "instruction", "input"),
            "completion": ("completion", "answer", "response", "output"),
        },
        _build_completion,
        _SYSTEM,
    ),
    Format("text", "plain text", {"text": ("text",)}, _build_text),
)
"""The formats in the order in which they are tried; the first with all required columns matches."""


def find_formats(name: str, fields: Sequence[str]) -> tuple[Format, ...]:
    """Return the formats of this name, or all for ``auto``, that have all ``fields``."""
    return tuple(
        f for f in FORMATS if name in ("auto", f.name) and all(x in f.fields for x in fields)
    )


def match_format(
    present: frozenset[str], formats: Sequence[Format], columns: Mapping[str, str]
) -> FormatMatch | None:
    """Return the first format whose required columns are all in ``present``; None if none matches.

    ``columns`` maps field names to the user's column names.
    """
    for candidate in formats:
        found: dict[str, str] = {}
        for name, aliases in {**candidate.required, **candidate.optional}.items():
            names = (columns[name],) if name in columns else aliases
            column = next((n for n in names if n in present and n not in found.values()), None)
            if column is not None:
                found[name] = column
        if all(name in found for name in candidate.required):
            return FormatMatch(candidate, found)
    return None


def label_text(row: Fields, column: str) -> str | None:
    """Return a group or slice value as text; None if the row has none.

    Raises:
        RowError: the value is neither text, nor an integer, nor a truth value.
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

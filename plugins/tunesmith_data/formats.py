"""Formats of rows: how each is recognised by its columns and becomes a record.

A format's fields have names of their own (``prompt``, ``completion``); which columns they stand in
is a *layout*, found from the columns that a row has, the usual aliases, and the user's mapping.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from tunesmith.records import Chat, Completion, Message, Preference, Record, Text
from tunesmith_data.row import Fault, Fields, kind_of
from tunesmith_data.turns import (
    check_turns,
    clean,
    has_system,
    messages_of,
    require,
    transcript,
    with_system,
)


@dataclass(frozen=True, slots=True)
class Cells:
    """One row seen through a layout: fields by their names, in whatever column they stand."""

    source: str
    row: Fields
    columns: Mapping[str, str]
    default_system: str | None

    def value(self, name: str) -> object:
        """What stands under a field; None where the column or its value is missing."""
        return self.row.get(self.columns[name]) if name in self.columns else None

    def text(self, name: str) -> str:
        """The text of a field."""
        return clean(self.value(name), f"`{self.columns[name]}`")

    def optional_text(self, name: str) -> str | None:
        """The text of a field; None where there is no value."""
        return None if self.value(name) is None else self.text(name)

    def system(self) -> str | None:
        """The row's own system prompt, else the one for all rows."""
        own = self.optional_text("system")
        return self.default_system if own is None else own

    def messages(self, name: str) -> tuple[Message, ...]:
        """The conversation in a field, system prompt in front; its turns are not checked yet."""
        messages = messages_of(self.value(name), f"`{self.columns[name]}`")
        return self.with_system(messages)

    def with_system(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """The conversation with the row's or the common system prompt, unless it has its own."""
        if not has_system(messages):
            return with_system(messages, self.system())
        if self.optional_text("system") is not None:
            raise Fault("two system messages")
        return messages


Build: TypeAlias = Callable[[Cells], Record]


@dataclass(frozen=True, slots=True)
class Format:
    """A row format: the fields it needs and may have, each with the usual column names."""

    name: str
    title: str
    needs: Mapping[str, tuple[str, ...]]
    build: Build
    may: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def fields(self) -> tuple[str, ...]:
        """The names that a mapping of columns may use."""
        return (*self.needs, *self.may)


@dataclass(frozen=True, slots=True)
class Layout:
    """A format and the columns in which its fields stand."""

    format: Format
    columns: Mapping[str, str]

    @property
    def needed(self) -> dict[str, str]:
        """The columns without which a row is not in this layout."""
        return {name: self.columns[name] for name in self.format.needs}

    def same_as(self, other: Layout) -> bool:
        """Whether rows of both may stand in one file; optional columns may come and go."""
        return self.format.name == other.format.name and self.needed == other.needed

    def __str__(self) -> str:
        needed = ", ".join(self.needed.values())
        return f"{self.format.title} ({needed})"


def _build_text(cells: Cells) -> Record:
    return Text(source=cells.source, text=require(cells.text("text"), "text"))


def _build_completion(cells: Cells) -> Record:
    if isinstance(cells.value("prompt"), list) or isinstance(cells.value("completion"), list):
        messages = (*cells.with_system(_own_prompt(cells)), *_answer_messages(cells))
        return Chat(source=cells.source, messages=check_turns(messages))
    prompt = require(cells.text("prompt"), "prompt")
    return _completion(cells, prompt, cells.text("completion"))


def _build_alpaca(cells: Cells) -> Record:
    instruction = require(cells.text("instruction"), "prompt")
    context = cells.optional_text("input")
    prompt = f"{instruction}\n\n{context}" if context else instruction
    return _completion(cells, prompt, cells.text("output"))


def _completion(cells: Cells, prompt: str, answer: str) -> Record:
    """A completion, or a chat where there is a system prompt to go with it."""
    if cells.row.get("label") is False:
        hint = "rows with label = false are bad answers: use pairs of chosen and rejected instead"
        raise Fault("answer is marked as bad by its label", hint=hint)
    require(answer, "answer")
    system = cells.system()
    if system is None:
        return Completion(source=cells.source, prompt=prompt, completion=answer)
    messages = (Message("system", system), Message("user", prompt), Message("assistant", answer))
    return Chat(source=cells.source, messages=messages)


def _answer_messages(cells: Cells) -> tuple[Message, ...]:
    value = cells.value("completion")
    if isinstance(value, list):
        return messages_of(value, f"`{cells.columns['completion']}`")
    return (Message("assistant", cells.text("completion")),)


def _own_prompt(cells: Cells) -> tuple[Message, ...]:
    """The prompt column as a conversation, from text or a list of messages."""
    value = cells.value("prompt")
    if isinstance(value, list):
        return messages_of(value, f"`{cells.columns['prompt']}`")
    return (Message("user", cells.text("prompt")),)


def _build_chat(cells: Cells) -> Record:
    name = "messages" if "messages" in cells.columns else "conversations"
    return Chat(source=cells.source, messages=check_turns(cells.messages(name)))


def _build_preference(cells: Cells) -> Record:
    before, chosen = _side(cells, "chosen")
    before_rejected, rejected = _side(cells, "rejected")
    if before != before_rejected:
        raise Fault("chosen and rejected differ before the last answer")
    own = () if cells.value("prompt") is None else _own_prompt(cells)
    if not own and not before:
        raise Fault("has no prompt")
    if own and before and _turns(own) != _turns(before):
        raise Fault("prompt differs from the conversation before the chosen answer")
    prompt = cells.with_system(before if has_system(before) or not own else own)
    if chosen == rejected:
        raise Fault("chosen and rejected are the same", chosen)
    check_turns((*prompt, Message("assistant", chosen)))
    return Preference(
        source=cells.source, prompt=prompt, chosen=chosen, rejected=require(rejected, "answer")
    )


def _turns(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The conversation without its system message, which one of two columns may lack."""
    return messages[1:] if has_system(messages) else messages


def _side(cells: Cells, name: str) -> tuple[tuple[Message, ...], str]:
    """What stands before one of the two answers (often nothing), and the answer."""
    value = cells.value(name)
    if isinstance(value, list):
        messages: tuple[Message, ...] | None = messages_of(value, f"`{cells.columns[name]}`")
    else:
        text = cells.text(name)
        messages = transcript(text) if cells.value("prompt") is None else None
        if messages is None:
            return (), text
    if not messages or messages[-1].role != "assistant":
        raise Fault("last turn is not the assistant's")
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
"""In the order in which they are tried: the first whose needed columns are there is taken."""


def fitting(name: str, fields: Sequence[str]) -> tuple[Format, ...]:
    """The formats that a choice (or ``auto``) leaves, among those that have all ``fields``."""
    return tuple(
        f for f in FORMATS if name in ("auto", f.name) and all(x in f.fields for x in fields)
    )


def layout_of(
    present: frozenset[str], formats: Sequence[Format], columns: Mapping[str, str]
) -> Layout | None:
    """The first format whose needed columns are all among ``present``."""
    for candidate in formats:
        found: dict[str, str] = {}
        for name, aliases in {**candidate.needs, **candidate.may}.items():
            names = (columns[name],) if name in columns else aliases
            column = next((n for n in names if n in present and n not in found.values()), None)
            if column is not None:
                found[name] = column
        if all(name in found for name in candidate.needs):
            return Layout(candidate, found)
    return None


def label(row: Fields, column: str) -> str | None:
    """A group or slice value as text; None where the row has none."""
    value = row.get(column)
    if value is None or value == "":
        return None
    if isinstance(value, str):
        return clean(value, f"`{column}`")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    raise Fault(f"`{column}` is {kind_of(value)}, not a label", repr(value))

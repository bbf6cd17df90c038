"""Records: the plain data that travels from loaders to techniques and evaluators.

A loader makes them, a technique trains on them, an evaluator measures on them; none of the three
needs to know the other two. There are no tensors and no templates here: *what is said*, not how
one model family writes it down.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[str, ...] = get_args(Role)


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


Prompt: TypeAlias = str | tuple[Message, ...]
"""What a text model is given: a conversation to be continued, or bare text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """What every record has: where it came from, and what ties it to others.

    ``group`` names what must not be torn apart by a split (a patient, a ticket thread);
    ``slices`` are labels under which results are also reported.
    """

    source: str
    """``file:line``, or whatever else finds this record again."""
    group: str | None = None
    slices: tuple[tuple[str, str], ...] = field(default=())


@dataclass(frozen=True, kw_only=True, slots=True)
class Text(Record):
    """Plain text; every token is learned."""

    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion(Record):
    """A prompt and the answer to learn; the prompt carries no loss."""

    prompt: str
    completion: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Chat(Record):
    """A conversation; the assistant's turns are learned."""

    messages: tuple[Message, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Preference(Record):
    """One prompt with an answer that was preferred and one that was not."""

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str


def exchanges(record: Record) -> Iterator[tuple[Prompt, str]]:
    """Every (prompt, answer) that the record teaches, in order.

    A :class:`Chat` gives one for each assistant turn, with all turns before it as the prompt.
    A :class:`Completion` is a conversation of one exchange. A :class:`Text` is an answer to
    the empty prompt. A :class:`Preference` teaches its chosen answer.
    """
    match record:
        case Text():
            yield "", record.text
        case Completion():
            yield (Message("user", record.prompt),), record.completion
        case Chat():
            for turn, message in enumerate(record.messages):
                if message.role == "assistant":
                    yield record.messages[:turn], message.content
        case Preference():
            yield record.prompt, record.chosen
        case _:
            raise TypeError(f"no exchanges are known for {type(record).__name__}")


def last_exchange(record: Record) -> tuple[Prompt, str]:
    """The exchange that a generating evaluator asks about: the record's final answer."""
    *_, last = exchanges(record)
    return last


def content_key(record: Record) -> str:
    """The text that makes two records the same, for splits and leak checks."""
    match record:
        case Text():
            return record.text
        case Completion():
            return f"{record.prompt}\n{record.completion}"
        case Chat():
            return "\n".join(message.content for message in record.messages)
        case Preference():
            prompt = "\n".join(message.content for message in record.prompt)
            return f"{prompt}\n{record.chosen}\n{record.rejected}"
        case _:
            raise TypeError(f"no content is known for {type(record).__name__}")

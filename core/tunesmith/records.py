"""Records: the plain data that data loaders pass to techniques and evaluators.

A data loader makes records, a technique trains on them, an evaluator measures a model on them; none
of the three needs to know the other two. Records hold no tensors and know no chat template: they
are the content, not its rendering for a family of models.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
"""Input of a text model: a conversation to be continued, or plain text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """Base class of records: the source of the record, its group and its slices.

    A record is immutable in depth: lists that a data loader passes become tuples. A split keeps the
    records of a ``group`` (a patient, a ticket thread) in one part. ``slices`` are labels for which
    results are also reported separately.
    """

    source: str
    """``file:line``, or another reference to the origin of the record."""
    group: str | None = None
    slices: tuple[tuple[str, str], ...] = field(default=())

    def __post_init__(self) -> None:
        if self.slices != ():
            pairs = self.slices.items() if isinstance(self.slices, Mapping) else self.slices
            _set(self, "slices", tuple(map(tuple, pairs)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Text(Record):
    """Plain text; every token contributes to the loss."""

    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion(Record):
    """A prompt and its completion; only the completion contributes to the loss."""

    prompt: str
    completion: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Chat(Record):
    """A conversation; the assistant's turns contribute to the loss."""

    messages: tuple[Message, ...]

    def __post_init__(self) -> None:
        Record.__post_init__(self)
        _set(self, "messages", tuple(self.messages))


@dataclass(frozen=True, kw_only=True, slots=True)
class Preference(Record):
    """A prompt with a chosen and a rejected completion."""

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str

    def __post_init__(self) -> None:
        Record.__post_init__(self)
        _set(self, "prompt", tuple(self.prompt))


def _set(record: Record, name: str, value: object) -> None:
    """Set a field of a record that is being built; a finished record cannot be changed."""
    object.__setattr__(record, name, value)


def is_immutable(record: Record) -> bool:
    """Return True if no field of the record, at any depth, can be changed."""
    try:
        hash(record)
    except TypeError:
        return False
    return True


def exchanges(record: Record) -> Iterator[tuple[Prompt, str]]:
    """Yield the (prompt, completion) pairs of a record, in order.

    A :class:`Chat` has one for each assistant turn, with all turns before it as the prompt. A
    :class:`Completion` has one, with the prompt as a user turn. A :class:`Text` is the completion
    of the empty prompt. A :class:`Preference` has its prompt and its chosen completion.
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
    """Return the last exchange of a record, whose completion evaluators ask the model for."""
    *_, last = exchanges(record)
    return last


def content_key(record: Record) -> str:
    """Return the text by which splits and leak checks compare records."""
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

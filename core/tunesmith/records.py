"""Records: the plain data that data loaders pass to techniques and evaluators.

A data loader makes records, a technique trains on them, and an evaluator measures a model on them.
None of the three needs to know the others. Records contain no tensors and are independent of chat
templates: a template is applied later.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Literal, TypeAlias, final, get_args

from tunesmith.errors import DataError

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[str, ...] = get_args(Role)

Feature = Literal["tools", "reasoning", "weights", "rejected", "media"]
"""Record contents that a technique may train on; see :func:`find_features`.

``rejected`` are the worse answers of pairs: a technique without this feature trains on the chosen
answers only. ``media`` are parts of messages that are not text.
"""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function that the assistant asks to call, with its arguments."""

    name: str
    arguments: str = "{}"
    """The arguments: the text of a JSON object."""
    id: str = ""


@dataclass(frozen=True, slots=True)
class Part:
    """Base class of the parts of a message.

    A plugin can add kinds, such as images: frozen dataclasses with immutable fields. Fingerprints
    and splits compare the ``repr`` of a part, so everything that distinguishes two parts, such as a
    digest, must be in it.
    """

    def describe(self) -> str:
        """Return a short text for people, such as the path and the size of an image."""
        return repr(self)

    def preview(self, side: int) -> Preview | None:
        """Return a picture whose longer side has at most so many pixels, or None without one."""
        return None


@dataclass(frozen=True, slots=True)
class Preview:
    """A small picture of a part, for pages and terminals."""

    description: str
    """Text for readers who do not see the picture, without the path of a file."""
    width: int
    """Width in pixels."""
    height: int
    """Height in pixels."""
    pixels: bytes
    """Red, green and blue of each pixel, row by row."""
    media_type: str
    """Type of :attr:`data`, such as ``image/jpeg``."""
    data: bytes
    """The picture as a file, of a few kilobytes."""


@final
@dataclass(frozen=True, slots=True)
class TextPart(Part):
    """A piece of a message's text; ``weight`` multiplies the loss of its tokens."""

    text: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    ``content`` is text, or a tuple of parts if some parts have weights or are not text. Parts that
    are plain text are joined into one text. Use :attr:`text` if you need text. Only the assistant's
    turns contribute to the loss: ``weight`` multiplies the loss of all tokens of the message, and 0
    excludes them.
    """

    role: Role
    content: str | tuple[Part, ...]
    _: KW_ONLY
    reasoning: str = ""
    """The assistant's reasoning before its answer."""
    tool_calls: tuple[ToolCall, ...] = ()
    weight: float = 1.0
    name: str = ""
    """Name of the speaker, or of the tool that returned this result."""
    tool_call_id: str = ""
    """Id of the tool call whose result this message contains."""
    tools: tuple[str, ...] = ()
    """Tool definitions as JSON texts, only in the first message of a conversation."""

    def __post_init__(self) -> None:
        content = self.content
        if isinstance(content, list | tuple):
            parts = tuple(content)
            if not all(isinstance(part, Part) for part in parts):
                raise TypeError(
                    f"the content of a message must be text or parts, got {parts!r:.80}"
                )
            texts = [part.text for part in parts if isinstance(part, TextPart) and part.weight == 1]
            _set(self, "content", "".join(texts) if len(texts) == len(parts) else parts)
        if self.tool_calls:
            _set(self, "tool_calls", tuple(self.tool_calls))
        if self.tools:
            _set(self, "tools", tuple(self.tools))

    @property
    def text(self) -> str:
        """The text of the message, without weights, reasoning or tool calls.

        Raises:
            DataError: a part of the message is not text.
        """
        content = self.content
        return content if isinstance(content, str) else "".join(p.text for p in self.text_parts)

    @property
    def text_parts(self) -> tuple[TextPart, ...]:
        """The parts of a text that has weighted parts; empty if the content is one plain text.

        Raises:
            DataError: a part of the message is not text.
        """
        if media := self.media:
            raise DataError(
                f"a {self.role} message",
                f"has a part of type {type(media[0]).__name__}, but only text can be used here",
                hint="use plugins that accept such parts, or remove the parts from the rows",
            )
        return tuple(p for p in self._parts if isinstance(p, TextPart))

    @property
    def media(self) -> tuple[Part, ...]:
        """Images and other parts that only some plugins accept; empty for plain text."""
        return tuple(part for part in self._parts if not isinstance(part, TextPart))

    @property
    def has_weights(self) -> bool:
        """True if a part of the text has its own weight."""
        return any(isinstance(part, TextPart) and part.weight != 1 for part in self._parts)

    @property
    def shown_text(self) -> str:
        """The content as text for display and row comparison; media appear as their ``repr``."""
        if isinstance(self.content, str):
            return self.content
        return "".join(p.text if isinstance(p, TextPart) else repr(p) for p in self.content)

    @property
    def readable_text(self) -> str:
        """The content as text for people; media appear as their descriptions."""
        if isinstance(self.content, str):
            return self.content
        return "".join(
            p.text if isinstance(p, TextPart) else f"[{p.describe()}] " for p in self.content
        )

    @property
    def described(self) -> str:
        """The content and the tool calls, as text for display."""
        calls = (f"{call.name}({call.arguments})" for call in self.tool_calls)
        return "\n".join(filter(None, [self.shown_text, *calls]))

    @property
    def is_trained(self) -> bool:
        """True if any tokens of the message contribute to the loss."""
        parts = () if self.tool_calls else self._parts
        silent = parts and all(isinstance(p, TextPart) and not p.weight for p in parts)
        return self.role == "assistant" and self.weight > 0 and not silent

    @property
    def _parts(self) -> tuple[Part, ...]:
        return () if isinstance(self.content, str) else self.content


Prompt: TypeAlias = str | tuple[Message, ...]
"""Input of a text model: a conversation to continue, or plain text. In a conversation, the first
message defines the tools that the model may call.
"""

Answer: TypeAlias = str | Message
"""Answer to a prompt: text, or an assistant message with reasoning, tool calls or weights."""


def to_answer(message: Message) -> Answer:
    """Return the text of an answer that is only text, otherwise the message."""
    is_text = message == Message(message.role, message.shown_text, weight=message.weight)
    return message.text if is_text else message


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """Base class of records, with the record's source, group and slices.

    A record is immutable at every level: lists that a data loader passes become tuples. All records
    of a ``group`` (a patient, a ticket thread) are in the same split. ``slices`` are labels;
    results are also reported for each of them.
    """

    source: str
    """``file:line``, or another reference to where the record comes from."""
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
    """A plain-text prompt and its completion; only the completion contributes to the loss."""

    prompt: str
    completion: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Chat(Record):
    """A conversation; the assistant's turns contribute to the loss according to their weights."""

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


@dataclass(frozen=True, kw_only=True, slots=True)
class UnpairedPreference(Record):
    """A prompt and a completion labeled as good or bad."""

    prompt: tuple[Message, ...]
    completion: str
    label: bool
    """True if the completion is good."""

    def __post_init__(self) -> None:
        Record.__post_init__(self)
        _set(self, "prompt", tuple(self.prompt))


def _set(record: Record | Message, name: str, value: object) -> None:
    """Set a field of an object under construction; finished objects are immutable."""
    object.__setattr__(record, name, value)


def is_immutable(record: Record) -> bool:
    """Return True if all fields of the record are immutable at any depth."""
    try:
        hash(record)
    except TypeError:
        return False
    return True


def find_features(record: Record) -> frozenset[Feature]:
    """Return the features of a record, such as tools or weights, beyond the texts of its turns.

    A technique trains on a record only if its offer names all of these features. Otherwise the
    technique could ignore them and learn something that is not in the data.
    """
    match record:
        case Chat():
            messages = record.messages
        case Preference() | UnpairedPreference():
            messages = record.prompt
        case _:
            return frozenset()
    found: dict[Feature, bool] = {
        "tools": any(m.tools or m.tool_calls or m.tool_call_id for m in messages),
        "reasoning": any(m.reasoning for m in messages),
        "weights": any(m.weight != 1 or m.has_weights for m in messages),
        "media": any(m.media for m in messages),
    }
    return frozenset(name for name, is_used in found.items() if is_used)


def has_media(records: Iterable[Record]) -> bool:
    """Return True if any message of the records has a part that is not text."""
    return any("media" in find_features(record) for record in records)


def exchanges(record: Record) -> Iterator[tuple[Prompt, Message]]:
    """Yield the prompts of a record, each with the assistant's answer to it, in order.

    The exchanges depend on the kind of record:

    * :class:`Chat`: one for each assistant turn with a weight; all turns before it are the prompt.
    * :class:`Completion`: one, with the prompt as a user turn.
    * :class:`Text`: the text as the answer to the empty prompt.
    * :class:`Preference`: its prompt with the chosen completion.
    * :class:`UnpairedPreference`: its prompt with its completion, even if that is labeled as bad.

    Raises:
        TypeError: a plugin defines this kind of record.
    """
    match record:
        case Text():
            yield "", Message("assistant", record.text)
        case Completion():
            yield (Message("user", record.prompt),), Message("assistant", record.completion)
        case Chat():
            for turn, message in enumerate(record.messages):
                if message.is_trained:
                    yield record.messages[:turn], message
        case Preference():
            yield record.prompt, Message("assistant", record.chosen)
        case UnpairedPreference():
            yield record.prompt, Message("assistant", record.completion)
        case _:
            raise TypeError(f"exchanges are not defined for {type(record).__name__}")


def last_exchange(record: Record) -> tuple[Prompt, Message]:
    """Return the last exchange of a record: the prompt, and the answer to compare with."""
    *_, last = exchanges(record)
    return last


def prompt_text(prompt: Prompt) -> str:
    """Return all texts of a prompt, one message per line; media appear as their ``repr``."""
    return prompt if isinstance(prompt, str) else "\n".join(m.shown_text for m in prompt)

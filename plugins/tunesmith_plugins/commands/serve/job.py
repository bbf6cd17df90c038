"""One answer on its way: from the prompt through the model to the client.

The model's thread advances a job, the event loop reads its pieces.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from tunesmith.records import Prompt
from tunesmith_plugins.commands.serve.api_error import ApiError

EXACT_TOKENS = 256
"""Tokens up to which each token is decoded at once; twice as many are decoded in pairs, and so on.

A text is always decoded as a whole, which would take long for each token of a long one.
"""
FinishReason = Literal["stop", "length"]
Scored = tuple[str, float]
"""A token as text, and its log-probability in nats."""


@dataclass(frozen=True, slots=True)
class TokenScore:
    """A generated token, and the most likely ones."""

    token: Scored
    top: tuple[Scored, ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of an answer; the last one has a reason why it ends."""

    index: int
    text: str
    scores: tuple[TokenScore, ...] = ()
    finish_reason: FinishReason | None = None
    tokens: int = 0
    """Generated tokens so far, the end token included."""


Event = Piece | ApiError
Text = Callable[[Sequence[int], bool], str]
"""Returns the text of token ids; True: they are complete."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The input of one answer."""

    index: int
    prompt: Prompt
    """The prompt as the model's template takes it; not used if there are :attr:`ids`."""
    ids: tuple[int, ...] = ()
    max_tokens: int
    temperature: float
    top_p: float
    seed: int
    stream: int
    """Number of the stream of random numbers: the place among the answers to its prompt."""
    stop_words: tuple[str, ...] = ()
    num_top: int | None = None
    is_continuation: bool = False
    """True if the answer continues a text; False if it is a turn of a conversation."""
    is_streamed: bool = False


class StreamedText:
    """The text of an answer that grows by tokens, up to a stop word."""

    def __init__(self, decode: Text, stop_words: Sequence[str]) -> None:
        self._decode, self._stop_words = decode, stop_words
        self.sent = ""
        self.is_stopped = False

    def update(self, ids: Sequence[int], is_complete: bool) -> str:
        """Return the text that is new and final; set :attr:`is_stopped` at a stop word.

        What may be the beginning of a stop word is held back.
        """
        if not is_complete and len(ids) % (1 + len(ids) // EXACT_TOKENS):
            return ""
        text = self._decode(ids, is_complete)
        found = [text.find(word) for word in self._stop_words if word in text]
        if found:
            text, self.is_stopped = text[: min(found)], True
        elif not is_complete:
            text = text[: len(text) - self._held_back(text)]
        if not text.startswith(self.sent):
            return ""
        new, self.sent = text[len(self.sent) :], text
        return new

    def _held_back(self, text: str) -> int:
        """Return the length of the longest end of the text that begins a stop word."""
        longest = max((len(word) - 1 for word in self._stop_words), default=0)
        for length in range(min(longest, len(text)), 0, -1):
            if any(word.startswith(text[-length:]) for word in self._stop_words):
                return length
        return 0


@dataclass(eq=False)
class Channel:
    """The way of a request's pieces from the model's thread to the event loop."""

    queue: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)


@dataclass(eq=False)
class Job:
    """One answer that is being generated."""

    choice: Choice
    channel: Channel
    created: float = field(default_factory=time.monotonic)
    first_token: float | None = None
    """Time of the first token."""
    is_finished: bool = False
    is_cancelled: bool = False

    def cancel(self) -> None:
        """Give the answer up; its slot is free after the step."""
        self.is_cancelled = True

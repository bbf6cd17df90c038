"""Define the job that carries an answer from the prompt through the model to the client.

The model thread advances a job, and the event loop reads its pieces.
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
"""Decode after every token up to this many tokens; then after every second one, and so on.

The whole text is decoded each time, which would be slow after every token of a long text.
"""
FinishReason = Literal["stop", "length"]
Scored = tuple[str, float]
"""The text of a token, and its log-probability in nats."""


@dataclass(frozen=True, slots=True)
class TokenScore:
    """A generated token and the most likely tokens, with their log-probabilities."""

    token: Scored
    top: tuple[Scored, ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of an answer. The last part has a finish reason."""

    index: int
    text: str
    scores: tuple[TokenScore, ...] = ()
    finish_reason: FinishReason | None = None
    tokens: int = 0
    """Number of tokens generated so far, including the end token."""
    score: float | None = None
    """Score of a finished answer for a review policy, or None if unknown."""


Event = Piece | ApiError
Text = Callable[[Sequence[int], bool], str]
"""Decodes token ids to text; the flag is True once the ids are complete."""


@dataclass(frozen=True, kw_only=True)
class ChoiceInput:
    """One answer to compute: prompt or token ids, sampling and limits."""

    index: int
    prompt: Prompt
    """Prompt for the model's template; ignored if :attr:`ids` is not empty."""
    ids: tuple[int, ...] = ()
    max_tokens: int
    temperature: float
    top_p: float
    seed: int
    stream: int
    """Random stream of the answer: its index among the answers to the same prompt."""
    stop_words: tuple[str, ...] = ()
    num_top: int | None = None
    is_continuation: bool = False
    """True if the answer continues a text, False if it is a turn in a conversation."""
    is_streamed: bool = False
    is_scored: bool = False
    """True if the finished answer needs a score for a review policy."""


class StreamedText:
    """The text of a growing answer, up to a stop word."""

    def __init__(self, decode: Text, stop_words: Sequence[str]) -> None:
        self._decode, self._stop_words = decode, stop_words
        self.sent = ""
        self.is_stopped = False

    def update(self, ids: Sequence[int], is_complete: bool) -> str:
        """Return the new text that is final, and set :attr:`is_stopped` at a stop word.

        Text that may be the start of a stop word is held back.
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
        """Return the length of the longest suffix of the text that starts a stop word."""
        longest = max((len(word) - 1 for word in self._stop_words), default=0)
        for length in range(min(longest, len(text)), 0, -1):
            if any(word.startswith(text[-length:]) for word in self._stop_words):
                return length
        return 0


@dataclass(eq=False)
class Channel:
    """A queue that carries a request's pieces from the model thread to the event loop."""

    queue: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)


@dataclass(eq=False)
class Job:
    """An answer in progress: its input, and the channel that its pieces go to."""

    choice: ChoiceInput
    channel: Channel
    created: float = field(default_factory=time.monotonic)
    first_token: float | None = None
    """Monotonic time of the first token, or None before it."""
    is_finished: bool = False
    is_cancelled: bool = False

    def cancel(self) -> None:
        """Cancel the answer, which frees its slot after the current step."""
        self.is_cancelled = True

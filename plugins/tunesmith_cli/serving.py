"""The contract of extensions of ``tunesmith serve``, which choose models and observe answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tunesmith.contracts import TextModel


@dataclass(frozen=True, kw_only=True)
class ServedRequest:
    """A request to ``tunesmith serve``, as an extension sees it."""

    model: str
    headers: Mapping[str, str]
    """Those that the extensions in use name, in lower case; repeated ones are joined by commas."""
    body: str
    """The parameters as JSON: ``messages`` or ``prompt``, and the others."""


@dataclass(frozen=True, kw_only=True)
class ServedAnswer:
    """The answer to a request, once it has ended, which took ``seconds``.

    Tuples have one value for each choice. ``prompt_tokens`` and ``completion_tokens``, those of
    finished choices, are as in the client's usage.
    """

    id: str
    model: str
    texts: tuple[str, ...]
    finish_reasons: tuple[str, ...]
    """``stop``, ``length``, or ``unfinished``: the client left, time was over, or it failed."""
    logprobs: tuple[tuple[float, ...], ...]
    """Those of the tokens, in nats, if the offer needs them and the model returns them."""
    prompt_tokens: int
    completion_tokens: int
    seconds: float


class ServeExtension:
    """An extension of ``tunesmith serve``: override what you need, the methods here do nothing."""

    def models(self, load: Callable[[Path], TextModel]) -> Mapping[str, TextModel]:
        """Return further models to serve, by name; ``load`` opens the folder of an adapter."""
        return {}

    def choose(self, request: ServedRequest) -> str | None:
        """Return the name of the served model that answers; None leaves it to others.

        Requests wait for it. A UsageError refuses the request with status 400. After another
        exception it gets status 500, and never the answer of another model.
        """
        return None

    def observe(self, request: ServedRequest, answer: ServedAnswer) -> None:
        """Note an answer, in a thread of its own: no answer waits, and some may be dropped."""

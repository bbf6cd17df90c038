"""Define the interface of extensions of ``tunesmith serve``: choose models, observe answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tunesmith.contracts import TextModel


@dataclass(frozen=True, kw_only=True)
class ServedRequest:
    """A request to ``tunesmith serve``, as passed to extensions."""

    model: str
    headers: Mapping[str, str]
    """Headers that active extensions read, in lower case; repeated headers are joined by commas."""
    body: str
    """The parameters of the request: ``messages`` or ``prompt``, and all others."""


@dataclass(frozen=True, kw_only=True)
class ServedAnswer:
    """The complete answer to a request. ``seconds`` is the time from request to last token.

    Tuples have one value per choice. ``prompt_tokens`` and ``completion_tokens`` are the counts
    that the client receives as usage. Only finished choices have completion tokens.
    """

    id: str
    model: str
    texts: tuple[str, ...]
    finish_reasons: tuple[str, ...]
    """``stop``, ``length``, or ``unfinished`` if the client left, time ran out, or it failed."""
    logprobs: tuple[tuple[float, ...], ...]
    """Log-probabilities of the tokens in nats, if the offer needs them and the model returns
    them."""
    confidences: tuple[float | None, ...] = ()
    """Calibrated probabilities that the choices are right, as the server reports them."""
    prompt_tokens: int
    completion_tokens: int
    seconds: float


class ServeExtension:
    """Base class of extensions of ``tunesmith serve``. Its methods do nothing until overridden."""

    def models(self, load: Callable[[Path], TextModel]) -> Mapping[str, TextModel]:
        """Return additional models to serve, by name. ``load`` opens the folder of an adapter."""
        return {}

    def change_models(self, load: Callable[[Path], TextModel]) -> Mapping[str, TextModel | None]:
        """Return models to add or replace, by name; None removes a model that this method added.

        The server calls this before each request, and again if :meth:`choose` returns a model that
        is not served. Requests wait while it loads a model, but answers in progress continue. A
        removed model finishes the answers that it has begun.
        """
        return {}

    def choose(self, request: ServedRequest) -> str | None:
        """Return the name of the model that should answer, or None to leave the choice to others.

        The server calls this method before it answers, so a slow method delays the request. A
        UsageError rejects the request with status 400. Any other exception returns status 500, so
        that the wrong model never answers.
        """
        return None

    def observe(self, request: ServedRequest, answer: ServedAnswer) -> None:
        """Observe an answer. A separate thread calls this method, and skips answers under load."""

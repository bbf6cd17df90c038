"""Limits of the server: what one client may ask for, and how much work may wait."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of requests, of the queue and of times."""

    body_bytes: int = 1 << 20
    prompt_tokens: int = 8_192
    new_tokens: int = 1_024
    choices: int = 8
    """Most answers of one request."""
    slots: int = 16
    """Answers of a model that are generated at the same time."""
    queue: int = 64
    """Answers of a model that wait for a slot; more are refused."""
    seconds: float = 300
    """Time for a request, from its arrival to its last token."""
    drain_seconds: float = 30
    """Time for running requests after a stop signal."""
    head_bytes: int = 16_384
    """Size of the first line of a request and its headers."""
    head_seconds: float = 10
    """Time in which these must have arrived, from the connection or the last answer on."""
    body_seconds: float = 15
    """Time in which the body of a request must have arrived."""
    send_seconds: float = 30
    """Time for which a client may leave a part of an answer unread; then its connection ends."""
    connections: int = 512
    """Connections at the same time. One more takes the place of the one that waits for its client
    longest; if all have requests to answer, it is refused, unless it asks for ``/health``.

    A process may often have 1,024 open files.
    """

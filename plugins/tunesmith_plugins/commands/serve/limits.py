"""Define the limits of the server on requests, the queue and connections."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits for requests, queue and connections, with sizes in bytes and times in seconds."""

    body_bytes: int = 1 << 20
    prompt_tokens: int = 8_192
    new_tokens: int = 1_024
    choices: int = 8
    """Maximum answers per request (``n``)."""
    images: int = 16
    """Maximum images per conversation."""
    slots: int = 16
    """Number of answers to generate at the same time, per model."""
    queue: int = 64
    """Maximum number of answers waiting for a slot, per model; any more are rejected."""
    seconds: float = 300
    """Time for a request, from its arrival to its last token."""
    drain_seconds: float = 30
    """Time to finish open requests after a stop signal."""
    head_bytes: int = 16_384
    """Size of a request's first line and headers."""
    head_seconds: float = 10
    """Time for first line and headers to arrive, counted from the connection or last answer."""
    body_seconds: float = 15
    """Time for the body of a request to arrive."""
    send_seconds: float = 30
    """Time that a client may leave a part of an answer unread before its connection is closed."""
    connections: int = 512
    """Maximum open connections.

    Another connection replaces the one that has waited longest for its client. If all connections
    have requests to answer, the new request is rejected, except for ``/health``. The default leaves
    room below the common limit of 1,024 open files per process.
    """

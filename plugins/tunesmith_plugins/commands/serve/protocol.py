"""Set deadlines for connections, so that slow clients cannot block the server.

By itself, uvicorn waits forever for a request. A client that sends a byte every now and then would
keep its connection open, and a few hundred such clients would block the server.
"""

from __future__ import annotations

import asyncio
from typing import Any

import h11
import orjson
from uvicorn.protocols.http.h11_impl import H11Protocol

from tunesmith_plugins.commands.serve.api_error import ApiError
from tunesmith_plugins.commands.serve.limits import Limits


class PunctualProtocol(H11Protocol):
    """Closes a connection if its client is too slow, or to make room for another one.

    The deadline for a request's headers counts from the connection or from the last answer, no
    matter what arrives in between. The application enforces the deadline for the body.
    """

    def __init__(self, *, limits: Limits, **options: Any) -> None:
        super().__init__(**options)
        self._limits = limits
        self._late: asyncio.TimerHandle | None = None
        self._since = self.loop.time()

    @property
    def awaits_client(self) -> bool:
        """True if the connection has no complete request to answer."""
        return self._late is not None or self.cycle.more_body

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a request. Above the limit, close the connection that has waited longest."""
        super().connection_made(transport)
        self._await_request()
        if len(self.connections) > self._limits.connections:
            others = [c for c in self.connections if isinstance(c, PunctualProtocol)]
            if waiting := [c for c in others if c is not self and c.awaits_client]:
                min(waiting, key=lambda c: c._since).transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the deadline, because the connection is closed."""
        self._stop_waiting()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Process received data, and cancel the deadline once a request's headers are complete."""
        before = self.cycle
        super().handle_events()
        if self.cycle is not before and not self.cycle.response_complete:
            self._stop_waiting()

    def on_response_complete(self) -> None:
        """Start waiting for the next request, which may have already arrived."""
        self._await_request()
        super().on_response_complete()

    # ----------------------------------------------------------------- times

    def _await_request(self) -> None:
        self._stop_waiting()
        self._since = self.loop.time()
        self._late = self.loop.call_later(self._limits.head_seconds, self._give_up)

    def _stop_waiting(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _give_up(self) -> None:
        """Close the connection, even if the client never reads the data that was sent."""
        if self.conn.our_state is h11.IDLE and not self.transport.is_closing():
            self._send_too_late()
        if not self.transport.get_write_buffer_size():
            self.transport.close()
        self._late = self.loop.call_later(self._limits.send_seconds, self.transport.abort)

    def _send_too_late(self) -> None:
        seconds = self._limits.head_seconds
        error = ApiError(408, f"the request headers did not arrive within {seconds:g} seconds")
        body = orjson.dumps(error.to_json())
        headers = [
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("connection", "close"),
        ]
        for event in (
            h11.Response(status_code=error.status, headers=headers, reason=b"Request Timeout"),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")

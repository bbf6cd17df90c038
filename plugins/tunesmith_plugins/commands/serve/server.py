"""Run the web server with the model thread, and shut it down cleanly after a signal."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import socket
from collections.abc import Callable
from functools import partial
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from tunesmith.errors import UsageError
from tunesmith_cli import render
from tunesmith_plugins.commands.serve.protocol import PunctualProtocol
from tunesmith_plugins.commands.serve.service import Service

STEP_SECONDS = 5
"""Number of seconds to wait for the model thread's last step."""


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to a host and port.

    Raises:
        UsageError: the address is not available.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except OSError:
            bound.close()
            raise
    except (OSError, UnicodeError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            f"cannot listen on {host} port {port}: {reason.lower()}",
            hint="choose another port with --port, or 0 for a free one",
        ) from None
    return bound


class Server(uvicorn.Server):
    """A server that finishes open requests after the first signal, and exits after the second."""

    def __init__(self, app: ASGIApp, service: Service, when_ready: Callable[[], None]) -> None:
        limits = service.limits
        super().__init__(
            uvicorn.Config(
                app,
                http=partial(PunctualProtocol, limits=limits),  # type: ignore[arg-type]
                h11_max_incomplete_event_size=limits.head_bytes,
                ws="none",
                lifespan="off",
                loop="asyncio",
                log_config=None,
                log_level="critical",  # Errors are printed by the application.
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=math.ceil(limits.drain_seconds),
            )
        )
        self.service, self.when_ready = service, when_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the model thread, then listen."""
        self.service.thread.start(asyncio.get_running_loop())
        await super().startup(sockets)
        self.when_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop listening, and finish open requests. Exit immediately on a second signal."""
        if self.should_exit:
            os._exit(128 + sig)  # The model thread cannot be interrupted within a step.
        name = signal.Signals(sig).name
        self.should_exit = True
        seconds = self.service.limits.drain_seconds
        render.print_note(
            f"{name}: finishing open requests (max {seconds:g} s); press Ctrl-C again to quit now"
        )


def serve(server: Server, bound: socket.socket) -> None:
    """Serve until a signal arrives, then finish open requests within their time limit."""
    try:
        server.run(sockets=[bound])
    finally:
        server.service.close(STEP_SECONDS)
        server.service.thread.stop(STEP_SECONDS)
        bound.close()

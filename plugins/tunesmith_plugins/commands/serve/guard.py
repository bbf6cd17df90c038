"""Control access to all routes: check the token and the headers, and limit connections."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
from collections.abc import Collection
from contextlib import nullcontext
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tunesmith_plugins.commands.serve.api_error import ApiError

HEALTH = "/health"
OPEN_PATHS = ("/", HEALTH)
"""Paths that need no token, because they contain no data."""
HEADERS = {
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


def is_loopback(host: str) -> bool:
    """Return True if only programs on this machine can reach the host."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True)
class Guard:
    """Rejects requests without the token, and those that a foreign web page may have caused.

    A web page can point its own host name at this machine (DNS rebinding). Its requests have that
    name in the ``Host`` header, so the guard accepts only addresses and the configured names. A
    page can also send requests without reading the answer. These have a foreign ``Origin`` header.
    """

    app: ASGIApp
    names: Collection[str]
    places: asyncio.Semaphore
    """Limits concurrent requests; requests to ``/health`` are exempt."""
    token: str | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on to the application, or answer with an error."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            self._check(scope["path"], Headers(scope=scope))
        except ApiError as error:
            response = JSONResponse(error.to_json(), error.status, error.headers)
            await response(scope, receive, send_with_headers)
            return
        async with nullcontext() if scope["path"] == HEALTH else self.places:
            await self.app(scope, receive, send_with_headers)

    def _check(self, path: str, headers: Headers) -> None:
        """Raise an ApiError if the request must be rejected."""
        host = headers.get("host", "")
        name = _host_name(host)
        if not (_is_address(name) or name in self.names):
            what = f"Host: {name[:100]!r} is not an accepted name of this server (see --allow-host)"
            raise ApiError(403, what, code="host_not_allowed")
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            raise ApiError(
                403, "Origin: requests from other sites are rejected", code="origin_refused"
            )
        if path != HEALTH and self.places.locked():
            what = "the server has too many open connections"
            raise ApiError(503, what, code="connections_full", headers={"Retry-After": "1"})
        if self.token is None or path in OPEN_PATHS:
            return
        kind, _, given = headers.get("authorization", "").partition(" ")
        right = hmac.compare_digest(given.strip().encode("latin-1"), self.token.encode())
        if kind.lower() != "bearer" or not right:
            raise ApiError(
                401,
                "the bearer token in the Authorization header is missing or wrong",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )


def _host_name(host: str) -> str:
    """Return the host name in a Host header, without the port."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].rstrip(".").lower()


def _is_address(name: str) -> bool:
    """Return True for an IP address, which DNS cannot redirect."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True

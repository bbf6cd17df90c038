"""Read request bodies and write answers, with limits on size and time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any, TypeVar

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send

from tunesmith_plugins.commands.serve.api_error import ApiError
from tunesmith_plugins.commands.serve.limits import Limits

T = TypeVar("T")
DISCARDED_BODIES = 16
"""Oversized bodies are read up to this many times the limit, and discarded.

Their clients then receive an error instead of a broken connection.
"""
CLIENT_LEFT = 499
"""Status in the metrics if the client disconnected before it got an answer."""
DONE = b"data: [DONE]\n\n"


async def read_json(request: Request, limits: Limits) -> tuple[str, object]:
    """Return the body of a request, and the parsed JSON.

    Raises:
        ApiError: the body is not JSON, is too large, or arrives too slowly.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, "the Content-Type must be application/json")
    try:
        async with asyncio.timeout(limits.body_seconds):
            body = await _read_body(request, limits.body_bytes)
    except TimeoutError:
        what = f"the body did not arrive within {limits.body_seconds:g} seconds"
        raise ApiError(408, what, headers={"Connection": "close"}) from None
    try:
        return body.decode(), orjson.loads(body)
    except ValueError as error:
        raise ApiError(400, f"the body is not valid JSON: {error}") from None


async def _read_body(request: Request, most: int) -> bytes:
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= most:
            chunks.append(chunk)
        if size > most * DISCARDED_BODIES:
            break
    if size > most:
        what = f"the body is larger than {most} bytes"
        raise ApiError(413, what, code="body_too_large", headers={"Connection": "close"})
    return b"".join(chunks)


async def run_while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Wait for the work and return its result, or cancel it if the client disconnects.

    Raises:
        ClientDisconnect: the client disconnected.
    """
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_wait_for_disconnect(receive))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect
    finally:
        for each in (task, watcher):
            each.cancel()
        await asyncio.gather(task, watcher, return_exceptions=True)


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream:
    """An answer sent as server-sent events. It closes its resources however it ends."""

    def __init__(
        self,
        chunks: AsyncIterator[dict[str, Any]],
        held: AsyncExitStack,
        send_seconds: float,
        count: Callable[[int], None],
    ) -> None:
        self._chunks, self._held, self._count = chunks, held, count
        self._send_seconds = send_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the chunks as they arrive."""

        async def send_in_time(message: dict[str, Any]) -> None:
            async with asyncio.timeout(self._send_seconds):
                await send(message)

        async with self._held:
            try:
                await run_while_connected(receive, self._send_all(send_in_time))
            except (ClientDisconnect, TimeoutError):  # disconnected, or not reading
                self._count(CLIENT_LEFT)

    async def _send_all(self, send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        status = 200
        try:
            async for chunk in self._chunks:
                data = b"data: " + orjson.dumps(chunk) + b"\n\n"
                await send({"type": "http.response.body", "body": data, "more_body": True})
        except ApiError as error:  # the answer has started, so the error is its last event
            status = error.status
            data = b"data: " + orjson.dumps(error.to_json()) + b"\n\n"
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": DONE})
        self._count(status)

"""Define the routes of the server."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import traceback
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from tunesmith_cli import render
from tunesmith_cli.serving import ServedRequest
from tunesmith_plugins.commands.serve.api_error import ApiError
from tunesmith_plugins.commands.serve.api_request import (
    ChatRequest,
    CompletionRequest,
    GenerationRequest,
    read_request,
)
from tunesmith_plugins.commands.serve.connection import (
    CLIENT_LEFT,
    EventStream,
    read_json,
    run_while_connected,
)
from tunesmith_plugins.commands.serve.extensions import describe_request
from tunesmith_plugins.commands.serve.guard import Guard
from tunesmith_plugins.commands.serve.responses import Responses, review_headers
from tunesmith_plugins.commands.serve.service import OpenRequest, Service

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def build_app(service: Service, *, names: Collection[str], token: str | None) -> ASGIApp:
    """Return the web application, protected by access control."""
    routes = Routes(service)
    app = Starlette(
        routes=[
            Route("/", routes.show_page),
            Route("/health", routes.show_health),
            Route("/metrics", routes.show_metrics),
            Route("/v1/models", routes.list_models),
            Route("/v1/models/{model}", routes.show_model),
            Route("/v1/chat/completions", routes.chat, methods=["POST"]),
            Route("/v1/completions", routes.complete, methods=["POST"]),
        ],
        exception_handlers={
            ApiError: routes.show_error,
            HTTPException: routes.show_error,
            ClientDisconnect: routes.show_nothing,
            Exception: routes.show_error,
        },
    )
    return Guard(app, names, asyncio.Semaphore(service.limits.connections), token)


class Routes:
    """The handlers of the server's routes."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._page = files(__package__).joinpath("page.html").read_text(encoding="utf-8")
        self._policy = content_policy(self._page)

    async def chat(self, request: Request) -> Response | EventStream:
        """Answer a conversation (``/v1/chat/completions``)."""
        return await self._answer(request, ChatRequest)

    async def complete(self, request: Request) -> Response | EventStream:
        """Continue a text (``/v1/completions``)."""
        return await self._answer(request, CompletionRequest)

    async def _answer(
        self, request: Request, kind: type[ChatRequest] | type[CompletionRequest]
    ) -> Response | EventStream:
        body, content = await read_json(request, self.service.limits)
        asked = read_request(kind, content)
        seen = describe_request(request, asked.model, body, self.service.extensions)
        await self.service.change_models()
        asked = await self.service.choose(asked, seen)
        if not asked.stream:
            answer = await run_while_connected(request.receive, self._answer_whole(asked, seen))
            self._count(request, 200)
            return JSONResponse(answer, headers=review_headers(answer))
        async with AsyncExitStack() as stack:
            ticket = await stack.enter_async_context(self.service.open(asked, seen))
            chunks = self._stream(Responses(asked, ticket), ticket)
            return EventStream(
                chunks,
                stack.pop_all(),
                self.service.limits.send_seconds,
                lambda status: self._count(request, status),
            )

    async def _answer_whole(self, asked: GenerationRequest, seen: ServedRequest) -> dict[str, Any]:
        async with self.service.open(asked, seen) as ticket:
            pieces = [p async for p in self.service.read_pieces(ticket)]
            return Responses(asked, ticket).write_whole(pieces)

    async def _stream(
        self, responses: Responses, ticket: OpenRequest
    ) -> AsyncIterator[dict[str, Any]]:
        for chunk in responses.write_first():
            yield chunk
        async for piece in self.service.read_pieces(ticket):
            for chunk in responses.write_piece(piece):
                yield chunk
        for chunk in responses.write_last():
            yield chunk

    # ----------------------------------------------------------------- other paths

    async def list_models(self, request: Request) -> Response:
        """Return the list of served models."""
        await self.service.change_models()
        models = [self._describe(name) for name in self.service.thread.engines]
        self._count(request, 200)
        return JSONResponse({"object": "list", "data": models})

    async def show_model(self, request: Request) -> Response:
        """Return the description of a model."""
        name = request.path_params["model"]
        await self.service.change_models()
        self.service.find_engine(name)
        self._count(request, 200)
        return JSONResponse(self._describe(name))

    def _describe(self, name: str) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": self.service.created,
            "owned_by": "tunesmith",
        }

    async def show_health(self, request: Request) -> Response:
        """Report whether the model thread is alive."""
        is_alive = self.service.thread.is_alive
        return JSONResponse({"status": "ok" if is_alive else "failed"}, 200 if is_alive else 503)

    async def show_metrics(self, request: Request) -> Response:
        """Return the metrics in Prometheus format."""
        return Response(self.service.metrics.to_text(), media_type=METRICS_TYPE)

    async def show_page(self, request: Request) -> Response:
        """Return the chat page as HTML, with a content security policy."""
        return HTMLResponse(self._page, headers={"content-security-policy": self._policy})

    async def show_error(self, request: Request, error: Exception) -> Response:
        """Return an error in the format of OpenAI's API."""
        if isinstance(error, HTTPException):
            found = f"{request.method} {request.url.path[:100]}: {error.detail.lower()}"
            error = ApiError(error.status_code, found, headers=error.headers)
        elif not isinstance(error, ApiError):
            render.print_note("".join(traceback.format_exception(error)), style="bad")
            error = ApiError(500, "internal error; see the server's output")
        self._count(request, error.status)
        return JSONResponse(error.to_json(), error.status, error.headers)

    async def show_nothing(self, request: Request, error: Exception) -> Response:
        """Count a request whose client has disconnected."""
        self._count(request, CLIENT_LEFT)
        return Response(status_code=CLIENT_LEFT)

    def _count(self, request: Request, status: int) -> None:
        known = request.scope.get("route")
        path = known.path if isinstance(known, Route) else "other"
        self.service.metrics.requests.labels(path, status).inc()


def content_policy(page: str) -> str:
    """Return a content security policy that allows only the page's own code and this server."""

    def sources(tag: str) -> str:
        return " ".join(
            f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
            for text in re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        )

    return (
        f"default-src 'none'; script-src {sources('script')}; style-src {sources('style')}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )

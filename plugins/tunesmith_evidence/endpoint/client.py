"""Query the model at an endpoint through OpenAI's chat completions API."""

from __future__ import annotations

import gzip
import http.client
import io
import json
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from email.message import Message
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, TypeVar

from tunesmith.contracts import Progress
from tunesmith.errors import EnvironmentProblem, UsageError
from tunesmith.text import format_count, one_line, redact
from tunesmith_evidence.endpoint.address import read_token

__all__ = ["Endpoint", "Reply"]

MAX_ANSWER_BYTES = 1_000_000
MAX_REASON = 200
"""Maximum length of an endpoint's message that is quoted in an error."""
MAX_ATTEMPTS = 3
MAX_PAUSE = 60.0
"""Maximum delay before a retry, in seconds, also if an endpoint asks for a longer one."""
SHOWN_MODELS = 20
RETRY_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
"""HTTP status codes after which a request is retried."""
UNREADABLE = OverflowError, RecursionError, EOFError, zlib.error
"""Further errors of JSON with huge numbers or deep nesting, and of damaged compressed data."""
T = TypeVar("T")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Rejects redirects, which would send the token to another address."""

    def redirect_request(self, *args: Any) -> None:
        return None


@dataclass(frozen=True)
class Reply:
    """An endpoint's answer. If fields are missing, the finish reason is ``stop`` and the token
    counts are 0."""

    text: str
    calls: tuple[Mapping[str, Any], ...] = ()
    """Name and arguments (JSON text) of each tool call."""
    finish_reason: str = "stop"
    tokens: int = 0
    """Number of tokens in the answer, counted by the endpoint."""
    prompt_tokens: int = 0
    """Number of tokens in the conversation, counted by the endpoint."""


@dataclass(frozen=True)
class Endpoint:
    """A model at an endpoint, queried at temperature 0."""

    url: str
    """Address up to ``/v1``; ``/chat/completions`` is appended."""
    model: str
    token_variable: str | None = None
    """Environment variable with the token, which is only sent to the endpoint and never shown."""
    timeout: float = 60.0
    """Time to wait for an answer, in seconds."""
    parallel: int = 4
    """Number of parallel requests."""
    pause: float = 1.0
    """Delay before the first retry, in seconds; it doubles with each further retry."""
    may_repeat: Callable[[], bool] | None = None
    """Called before a retry if the answer was lost, so that the endpoint may have charged for it.
    If it returns False, there is no retry."""
    role: str = "endpoint"
    """The name for the endpoint in errors."""
    hint: str = "check the address, the model's name and the token's variable, then try again"
    """Hint in errors about failed requests."""

    def ask(
        self,
        conversations: Sequence[Mapping[str, Any]],
        max_tokens: int,
        progress: Progress | None = None,
    ) -> list[Reply]:
        """Send conversations to the endpoint, and return a reply to each one.

        Args:
            conversations: request bodies with ``messages`` and, optionally, ``tools``.
            max_tokens: maximum tokens per answer.
            progress: called with the number of replies so far.

        Raises:
            EnvironmentProblem: the token is missing, or the endpoint cannot be used.
        """
        options = {"model": self.model, "temperature": 0, "max_tokens": max_tokens}
        token, replies = read_token(self.token_variable), list[Reply]()
        with ThreadPoolExecutor(self.parallel) as pool:
            send = partial(self._send, "chat/completions", token, _read_reply)
            # If a request fails, `map` cancels all requests that have not been sent.
            for reply in pool.map(send, ({**options, **each} for each in conversations)):
                replies.append(reply)
                if progress is not None:
                    progress(len(replies))
        return replies

    def list_models(self) -> list[str]:
        """Return the names of the models that the endpoint serves.

        Raises:
            EnvironmentProblem: the token is missing, or the endpoint cannot be used.
        """
        return self._send("models", read_token(self.token_variable), _read_models, None)

    def with_only_model(self) -> Endpoint:
        """Return the endpoint with the only model that it lists.

        Raises:
            UsageError: the endpoint does not list exactly one model.
        """
        names = self.list_models()
        if len(names) != 1:
            shown = ", ".join(names[:SHOWN_MODELS]) + (", ..." if names[SHOWN_MODELS:] else "")
            raise UsageError(
                f"{self.url}: the endpoint lists {format_count(len(names), 'model')}",
                hint=f"choose a model with --model NAME; available: {shown or 'none'}",
            )
        return replace(self, model=names[0])

    def _send(
        self, path: str, token: str, read: Callable[[Any], T], body: Mapping[str, Any] | None
    ) -> T:
        """Send a request, with retries, and return the response parsed by ``read``.

        A request without a body is a GET, otherwise a POST.
        """
        headers = {"Content-Type": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        request = urllib.request.Request(  # noqa: S310 - the address is http or https
            f"{self.url.rstrip('/')}/{path}",
            None if body is None else json.dumps(body).encode(),
            headers,
        )
        for attempt in range(MAX_ATTEMPTS):
            content, pause, is_lost = b"", self.pause * 2**attempt, False
            try:
                opener = urllib.request.build_opener(_NoRedirects)
                with opener.open(request, timeout=self.timeout) as response:
                    content = _read_body(response, self.timeout)
                return read(json.loads(content))
            except urllib.error.HTTPError as error:
                with suppress(OSError, http.client.HTTPException):
                    content = error.read(MAX_ANSWER_BYTES)
                problem = f"HTTP {error.code}{_read_reason(content)}"
                if error.code not in RETRY_STATUSES:
                    break
                pause, is_lost = max(pause, _read_delay(error.headers)), error.code >= 500
            except (OSError, http.client.HTTPException) as error:
                problem = str(getattr(error, "reason", error)) or type(error).__name__
                is_lost = not isinstance(error, urllib.error.URLError)  # it was sent
            except (ValueError, LookupError, TypeError, AttributeError, *UNREADABLE):
                kind = "list of models" if body is None else "chat completion"
                problem = f"the response is not a {kind}{_read_reason(content)}"
                break
            if attempt + 1 == MAX_ATTEMPTS or (
                is_lost and self.may_repeat is not None and not self.may_repeat()
            ):
                break
            time.sleep(pause)
        # Redact before truncating: a truncated token would not be recognized.
        shown = redact(problem.replace(token, "[token]") if token else problem)
        # "from None", because the request in the original error contains the token.
        raise EnvironmentProblem(
            f"request to the {self.role} at {self.url} failed: {one_line(shown, MAX_REASON)}",
            hint=self.hint,
        ) from None


def _read_body(response: http.client.HTTPResponse, seconds: float) -> bytes:
    """Return the body of a response, uncompressed.

    Raises:
        TimeoutError: the whole body takes longer than the limit; a socket's limit is for each part.
        http.client.IncompleteRead: the body was cut off.
    """
    deadline, content = time.monotonic() + seconds, bytearray()
    while len(content) < MAX_ANSWER_BYTES:
        part = response.read1(MAX_ANSWER_BYTES - len(content))
        if not part:
            break
        content += part
        if time.monotonic() > deadline:
            raise TimeoutError("timed out")
    missing = int(response.headers.get("Content-Length") or 0) - len(content)
    if missing > 0 and len(content) < MAX_ANSWER_BYTES:
        raise http.client.IncompleteRead(bytes(content), missing)
    if (response.headers.get("Content-Encoding") or "").lower() == "gzip":
        with gzip.open(io.BytesIO(content)) as file:
            return file.read(MAX_ANSWER_BYTES)
    return bytes(content)


def _read_delay(headers: Message) -> float:
    """Return the delay that ``Retry-After`` asks for, in seconds: a number or a date."""
    value = headers.get("Retry-After", "")
    if value.isdecimal():
        return min(float(value), MAX_PAUSE)
    with suppress(ValueError, TypeError):  # no date
        return min(parsedate_to_datetime(value).timestamp() - time.time(), MAX_PAUSE)
    return 0.0


def _read_reply(content: Any) -> Reply:
    choice = content["choices"][0]
    message, usage = choice["message"], content.get("usage") or {}
    text = message.get("content") or ""
    if not isinstance(text, str):
        raise TypeError("the content is not a text")
    return Reply(
        text,
        tuple(dict(call["function"]) for call in message.get("tool_calls") or ()),
        str(choice.get("finish_reason") or "stop"),
        int(usage.get("completion_tokens") or 0),
        int(usage.get("prompt_tokens") or 0),
    )


def _read_models(content: Any) -> list[str]:
    return [str(model["id"]) for model in content["data"]]


def _read_reason(body: bytes) -> str:
    """Return the error message in a response of any common format, or "" if there is no message."""
    try:
        content: Any = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    for key in ("error", "message", "detail"):
        if isinstance(content, dict) and content.get(key):
            content = content[key]
    return f": {content}" if isinstance(content, str) else ""

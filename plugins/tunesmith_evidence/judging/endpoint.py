"""Ask a model behind an endpoint that speaks OpenAI's chat completions."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from tunesmith.errors import EnvironmentProblem

MAX_ANSWER_BYTES = 1_000_000
ATTEMPTS = 3
MAX_TOKENS = 8
"""Tokens of a verdict, which is one word."""
BUSY = frozenset({408, 429, 500, 502, 503, 504})
"""Codes after which a request is repeated."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Refuses redirects, which would send the token to another address."""

    def redirect_request(self, *args: Any) -> None:
        return None


@dataclass(frozen=True)
class Endpoint:
    """An endpoint with a model, asked for one short answer at temperature 0."""

    url: str
    """Up to ``/v1``; ``/chat/completions`` is added."""
    model: str
    token_variable: str | None = None
    """Environment variable with the token, which is sent to the endpoint and never shown."""
    timeout: float = 60.0
    """Seconds to wait for an answer."""
    parallel: int = 4
    """Number of requests at the same time."""
    pause: float = 1.0
    """Seconds before a request is repeated, doubled each time."""

    def ask(self, prompts: Sequence[str]) -> list[str]:
        """Return the answer to each prompt.

        Raises:
            EnvironmentProblem: the token is missing, or the endpoint cannot be used.
        """
        token = self._read_token()
        with ThreadPoolExecutor(self.parallel) as pool:
            return [*pool.map(lambda prompt: self._ask_once(prompt, token), prompts)]

    def _read_token(self) -> str:
        if self.token_variable is None:
            return ""
        token = os.environ.get(self.token_variable, "").strip()
        if not token:
            raise EnvironmentProblem(f"the environment variable {self.token_variable} is not set")
        return token

    def _ask_once(self, prompt: str, token: str) -> str:
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": MAX_TOKENS,
        }
        headers = {"Content-Type": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        request = urllib.request.Request(  # noqa: S310 - options allow http and https only
            f"{self.url.rstrip('/')}/chat/completions", json.dumps(body).encode(), headers
        )
        for attempt in range(ATTEMPTS):
            try:
                return self._read_answer(request)
            except urllib.error.HTTPError as error:
                problem = f"HTTP {error.code}"
                if error.code not in BUSY:
                    break
            except OSError as error:
                problem = str(getattr(error, "reason", error))
            except (ValueError, LookupError, TypeError):
                problem = "the answer is no chat completion"
                break
            if attempt + 1 < ATTEMPTS:
                time.sleep(self.pause * 2**attempt)
        # "from None": the request in the original error holds the token.
        raise EnvironmentProblem(
            f"the judge at {self.url} cannot be asked: {problem}",
            hint="`tunesmith resume` repeats the evaluation",
        ) from None

    def _read_answer(self, request: urllib.request.Request) -> str:
        opener = urllib.request.build_opener(_NoRedirects)
        with opener.open(request, timeout=self.timeout) as response:
            content = json.loads(response.read(MAX_ANSWER_BYTES))
        return str(content["choices"][0]["message"]["content"] or "")

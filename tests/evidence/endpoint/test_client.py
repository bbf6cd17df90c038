"""An endpoint that speaks OpenAI's chat completions: requests, tokens, failures."""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from fake_judge import Failure, serve_judge

from tunesmith.errors import EnvironmentProblem
from tunesmith_evidence.endpoint.client import Endpoint, Reply

TOKEN = "sk-" + "secret" * 5


def ask(endpoint: Endpoint, *prompts: str) -> list[str]:
    turns = [{"messages": [{"role": "user", "content": prompt}]} for prompt in prompts]
    return [reply.text for reply in endpoint.ask(turns, 8)]


def test_prompts_are_answered_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_TOKEN", TOKEN)
    with serve_judge(lambda prompt: prompt.upper()) as fake:
        endpoint = Endpoint(fake.url, "m", "JUDGE_TOKEN")
        prompts = [f"p{n}" for n in range(9)]
        assert ask(endpoint, *prompts) == [prompt.upper() for prompt in prompts]
    headers, body = fake.requests[0]
    assert headers["Authorization"] == f"Bearer {TOKEN}" and TOKEN not in repr(endpoint)
    assert body["model"] == "m" and body["temperature"] == 0 and body["max_tokens"] < 20


def test_a_missing_token_is_named_before_anything_is_sent(monkeypatch: Any) -> None:
    monkeypatch.delenv("JUDGE_TOKEN", raising=False)
    with serve_judge(lambda prompt: "A") as fake:
        with pytest.raises(EnvironmentProblem, match="JUDGE_TOKEN is not set"):
            ask(Endpoint(fake.url, "m", "JUDGE_TOKEN"), "p")
        ask(Endpoint(fake.url, "m"), "p")
    assert len(fake.requests) == 1 and "Authorization" not in fake.requests[0][0]


def test_a_busy_endpoint_is_asked_again() -> None:
    asked: Counter[str] = Counter()

    def busy(prompt: str) -> str | int:
        asked[prompt] += 1
        return "A" if asked[prompt] > 2 else 503

    with serve_judge(busy) as fake:
        assert ask(Endpoint(fake.url, "m", pause=0.0), "p", "q") == ["A", "A"]
    assert asked == {"p": 3, "q": 3}


COMPLETION = b'{"choices": [{"message": {"content": "A"}}]}'


@contextmanager
def serve_raw(*responses: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """Serve one raw response per request, and yield the address."""
    left = [*responses]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            left.pop(0)(self)

        def log_message(self, *args: Any) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        server.shutdown()
        assert not left


def respond(
    body: bytes, status: int = 200, missing: int = 0, **headers: str
) -> Callable[[BaseHTTPRequestHandler], None]:
    """Return a response whose end is missing by some bytes."""

    def write(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body) + missing))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return write


def drip(handler: BaseHTTPRequestHandler) -> None:
    """Send a byte now and then, so that no wait for the next part is long."""
    handler.send_response(200)
    handler.end_headers()
    with suppress(OSError):
        for byte in COMPLETION * 9:
            handler.wfile.write(bytes([byte]))
            time.sleep(0.02)


def test_a_response_that_is_cut_off_is_requested_again() -> None:
    with serve_raw(respond(COMPLETION, missing=500), respond(COMPLETION)) as url:
        assert ask(Endpoint(url, "m", pause=0.0), "p") == ["A"]


def test_a_response_that_drips_takes_no_longer_than_the_limit() -> None:
    with serve_raw(drip, respond(COMPLETION)) as url:
        start = time.monotonic()
        assert ask(Endpoint(url, "m", pause=0.0, timeout=0.1), "p") == ["A"]
        assert time.monotonic() - start < 2


def test_a_compressed_response_is_read() -> None:
    with serve_raw(respond(gzip.compress(COMPLETION), Content_Encoding="gzip")) as url:
        assert ask(Endpoint(url, "m"), "p") == ["A"]


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_a_retry_waits_as_long_as_the_endpoint_asks(form: str) -> None:
    until = time.time() + 2
    value = "1" if form == "seconds" else formatdate(until, usegmt=True)
    with serve_raw(respond(b"", 429, Retry_After=value), respond(COMPLETION)) as url:
        start = time.monotonic()
        assert ask(Endpoint(url, "m", pause=0.0), "p") == ["A"]
        assert time.monotonic() - start >= 0.95


@pytest.mark.parametrize("value", ["-1", "soon", "nan", "Tue, 99 Foo 2026", "\u00b2"])
def test_a_delay_that_is_none_is_ignored(value: str) -> None:
    with serve_raw(respond(b"", 503, Retry_After=value), respond(COMPLETION)) as url:
        assert ask(Endpoint(url, "m", pause=0.0), "p") == ["A"]


@pytest.mark.parametrize(
    ("first", "is_lost"),
    [
        (respond(COMPLETION, missing=9), True),
        (respond(b"", 504), True),
        (respond(b"", 429), False),
    ],
)
def test_a_caller_decides_if_a_lost_answer_is_requested_again(first: Any, is_lost: bool) -> None:
    with serve_raw(first, *[respond(COMPLETION)] * (not is_lost)) as url:
        endpoint = Endpoint(url, "m", pause=0.0, may_repeat=lambda: False)
        if not is_lost:
            assert ask(endpoint, "p") == ["A"]
            return
        with pytest.raises(EnvironmentProblem):
            ask(endpoint, "p")


@pytest.mark.parametrize(
    ("reply", "message", "requests"),
    [
        (401, "HTTP 401", 1),
        (302, "HTTP 302", 1),
        (500, "HTTP 500", 3),
        (b"<html>", "not a chat completion", 1),
        (b"{}", "not a chat completion", 1),
        (b"[]", "not a chat completion", 1),
        (b"", "not a chat completion", 1),
        (b'{"error": {"message": "no credit"}}', "not a chat completion: no credit", 1),
        (b'{"choices": [{"message": null}]}', "not a chat completion", 1),
        (b'{"choices": [{"message": {"content": [{"text": "A"}]}}]}', "not a chat completion", 1),
        (b"[" * 100_000, "not a chat completion", 1),
        (
            b'{"choices": [{"message": {"content": "A"}}], "usage": {"prompt_tokens": 1e999}}',
            "not a chat completion",
            1,
        ),
    ],
)
def test_failures_name_the_endpoint_and_never_the_token(
    monkeypatch: pytest.MonkeyPatch, reply: Any, message: str, requests: int
) -> None:
    monkeypatch.setenv("JUDGE_TOKEN", TOKEN)
    with (
        serve_judge(lambda prompt: reply) as fake,
        pytest.raises(EnvironmentProblem, match=message) as caught,
    ):
        ask(Endpoint(fake.url, "m", "JUDGE_TOKEN", pause=0.0), "p")
    assert fake.url in str(caught.value) and len(fake.requests) == requests
    assert TOKEN not in str(caught.value) and caught.value.__cause__ is None


def test_an_endpoint_that_is_not_there() -> None:
    with serve_judge(lambda prompt: "A") as fake:
        pass
    with pytest.raises(EnvironmentProblem, match="request to the endpoint"):
        ask(Endpoint(fake.url, "m", pause=0.0), "p")


def test_the_slowest_answer_comes_at_its_place_and_progress_is_in_order() -> None:
    last = threading.Event()

    def slow_first(prompt: str) -> str:
        if prompt == "p3":
            last.set()
        elif prompt == "p0":
            assert last.wait(10), "the requests are not sent at the same time"
            time.sleep(0.2)  # the other answers arrive meanwhile
        return prompt.upper()

    done: list[int] = []
    turns = [{"messages": [{"role": "user", "content": f"p{n}"}]} for n in range(4)]
    with serve_judge(slow_first) as fake:
        replies = Endpoint(fake.url, "m", parallel=4).ask(turns, 8, done.append)
    assert [reply.text for reply in replies] == ["P0", "P1", "P2", "P3"] and done == [1, 2, 3, 4]


def test_an_answer_has_its_reason_tokens_and_calls() -> None:
    call = {"name": "find", "arguments": '{"id": 3}'}
    message = {"content": None, "tool_calls": [{"id": "1", "type": "function", "function": call}]}
    choice = {"message": message, "finish_reason": "tool_calls"}
    content = {"choices": [choice], "usage": {"completion_tokens": 7}}
    with serve_judge(lambda prompt: json.dumps(content).encode()) as fake:
        turns = [{"messages": [{"role": "user", "content": "p"}]}]
        assert Endpoint(fake.url, "m").ask(turns, 8) == [Reply("", (call,), "tool_calls", 7)]


def test_the_reason_of_an_endpoint_is_shown_safe_short_and_without_the_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A token of a form that only its variable gives away.
    monkeypatch.setenv("JUDGE_TOKEN", "plainword")
    text = "\x1b[31mkey plainword " + "x" * 184 + "plainword"
    reply = Failure(400, json.dumps({"error": {"message": text}}).encode())
    with serve_judge(lambda prompt: reply) as fake, pytest.raises(EnvironmentProblem) as caught:
        ask(Endpoint(fake.url, "m", "JUDGE_TOKEN"), "p")
    _, _, shown = str(caught.value).partition(" failed: ")
    assert shown.startswith("HTTP 400: \\x1b[31mkey [token] xx") and len(shown) == 200
    assert "plain" not in shown


def test_after_a_failure_the_other_prompts_are_not_sent() -> None:
    with serve_judge(lambda prompt: 401) as fake:
        with pytest.raises(EnvironmentProblem, match=r"the endpoint at .* HTTP 401"):
            ask(Endpoint(fake.url, "m", parallel=2), *map(str, range(300)))
        assert len(fake.requests) < 30


def test_a_run_that_is_stopped_sends_no_more_prompts() -> None:
    def stop(done: int) -> None:
        raise KeyboardInterrupt

    turns = [{"messages": [{"role": "user", "content": f"p{n}"}]} for n in range(300)]
    with serve_judge(lambda prompt: "A") as fake:
        with pytest.raises(KeyboardInterrupt):
            Endpoint(fake.url, "m", parallel=2).ask(turns, 8, stop)
        assert len(fake.requests) < 100


def test_the_models_are_listed() -> None:
    with serve_judge(lambda prompt: "A", models=("one", "two")) as fake:
        assert Endpoint(fake.url, "").list_models() == ["one", "two"]
        with pytest.raises(EnvironmentProblem, match="HTTP 404"):
            Endpoint(fake.url + "/x", "").list_models()

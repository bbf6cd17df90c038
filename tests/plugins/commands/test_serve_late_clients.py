"""Clients whose requests never end: they lose their connection, and others are answered."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import pytest
from openai import InternalServerError
from serving import Running, SlowModel, run_server, wait_for

from tunesmith_plugins.commands.serve.engine import CallingEngine
from tunesmith_plugins.commands.serve.limits import Limits

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
BODY = HEAD + b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
REFUSED = b"POST /v1/models HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
LATE = Limits(connections=8, head_seconds=0.4, body_seconds=0.4, send_seconds=0.4)
PATIENT = Limits(connections=8)


@contextmanager
def connect(running: Running, *sent: bytes) -> Iterator[list[socket.socket]]:
    """Open a connection for each text, and send it."""
    host, port = running.address.removeprefix("http://").split(":")
    with ExitStack() as stack:
        opened = list[socket.socket]()
        for text in sent:
            made = stack.enter_context(socket.create_connection((host, int(port)), timeout=20))
            made.sendall(text)
            opened.append(made)
        yield opened


def read_all(connection: socket.socket) -> bytes:
    """Return what a server sends until it closes the connection."""
    found = b""
    try:
        while part := connection.recv(4096):
            found += part
    except ConnectionError:
        pass
    return found


@pytest.mark.parametrize("begun", [b"", b"GET", HEAD, BODY])
def test_a_connection_ends_in_time(begun: bytes) -> None:
    with run_server(limits=LATE) as running, connect(running, begun) as (late,):
        assert b"408" in read_all(late).partition(b"\r\n")[0]


@pytest.mark.parametrize(
    ("begun", "drop"), [(HEAD, b"x"), (BODY, b" "), (REFUSED, b"x"), (HEALTH, b"G")]
)
def test_a_byte_now_and_then_gives_no_more_time(begun: bytes, drop: bytes) -> None:
    """Neither in a request, nor in a body that nobody wants, nor behind an answer."""
    with run_server(limits=LATE) as running, connect(running, begun) as (late,):
        end = time.monotonic() + 20
        with pytest.raises(ConnectionError):
            while time.monotonic() < end:
                late.sendall(drop)
                time.sleep(0.05)


@pytest.mark.parametrize("begun", [b"", HEAD, BODY, HEALTH, REFUSED])
def test_late_clients_make_room_for_others(begun: bytes) -> None:
    """Long before their time is over."""
    with run_server(limits=PATIENT) as running, connect(running, *[begun] * 8):
        assert running.fetch("/health").status == 200
        assert running.fetch("/v1/models").status == 200
        with connect(running, *[begun] * 30):
            assert running.fetch("/health").status == 200


def test_clients_that_wait_for_an_answer_keep_their_connections() -> None:
    slow = SlowModel()
    limits = Limits(slots=1, connections=2, head_seconds=0.2)
    with run_server({"tuned": CallingEngine(slow)}, limits=limits) as running:
        messages: Any = [{"role": "user", "content": "hello"}]
        text = b'{"model": "tuned", "messages": [{"role": "user", "content": "hello"}]}'
        whole = HEAD + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
        with connect(running, *[whole % (len(text), text)] * 2) as waiting:
            wait_for(lambda: running.metric("open_requests") == 2)
            with (
                running.client() as client,
                pytest.raises(InternalServerError, match="too many open connections"),
            ):
                client.chat.completions.create(model="tuned", messages=messages)
            assert running.fetch("/health").status == 200
            time.sleep(0.3)  # longer than the head of a request may take
            slow.may_answer.set()
            assert all(each.recv(12) == b"HTTP/1.1 200" for each in waiting)


def test_an_answer_that_nobody_reads_does_not_keep_its_connection() -> None:
    settings = b'"max_tokens": 60, "n": 8, "logprobs": true, "top_logprobs": 20'
    text = b'{"model": "tuned", "messages": [{"role": "user", "content": "hello"}], %b}' % settings
    whole = HEAD + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
    limits = replace(LATE, slots=8)
    with (
        run_server(limits=limits, slots=8, send_buffer=8192) as running,
        connect(running, whole % (len(text), text)),
    ):
        path = "/v1/chat/completions"
        wait_for(lambda: running.metric("requests_total", path=path, status="200") == 1, 60)
        wait_for(lambda: not running.server.server_state.connections)


def test_the_size_of_headers_is_limited() -> None:
    with run_server() as running, connect(running, HEAD) as (late,):
        with pytest.raises(ConnectionError):
            for _ in range(1000):
                late.sendall(b"X-More: " + b"x" * 1000 + b"\r\n")
                time.sleep(0.001)
        assert running.fetch("/health").status == 200
        answer = running.fetch("/health", None, {"X-Long": "x" * 15_000})
        assert answer.status == 200


def test_two_hundred_late_clients_do_not_stop_the_server() -> None:
    with run_server(limits=Limits(connections=64)) as running:
        with connect(running, *[HEAD, BODY, b"", REFUSED] * 50):
            begin = time.monotonic()
            assert running.fetch("/health").status == 200
            with running.client() as client:
                assert client.models.retrieve("tuned").id == "tuned"
            assert time.monotonic() - begin < 20
        running.wait_until_idle()

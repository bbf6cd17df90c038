"""Who may ask ``tunesmith serve``, and how much."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator

import pytest
from openai import AuthenticationError
from serving import Running, run_server

from tunesmith.errors import UsageError
from tunesmith_plugins.commands.serve.guard import is_loopback
from tunesmith_plugins.commands.serve.limits import Limits
from tunesmith_plugins.commands.serve.server import listen

BODY = {"model": "tuned", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}
PATH = "/v1/chat/completions"


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    limits = Limits(body_bytes=10_000, body_seconds=0.5)
    with run_server(limits=limits, token="sécret") as opened:
        yield opened


def authorized(running: Running, **headers: str) -> dict[str, str]:
    assert running.token is not None
    bearer = f"Bearer {running.token}".encode().decode("latin-1")
    return {"Authorization": bearer, **headers}


def test_the_right_token_is_let_in(running: Running) -> None:
    assert running.fetch(PATH, BODY, authorized(running)).status == 200
    assert running.fetch("/v1/models", None, authorized(running)).status == 200


@pytest.mark.parametrize("given", [None, "", "Bearer", "Bearer secret", "Bearer ", "Basic sécret"])
@pytest.mark.parametrize("path", [PATH, "/v1/models", "/metrics", "/nothing"])
def test_a_wrong_token_is_refused(running: Running, path: str, given: str | None) -> None:
    headers = {} if given is None else {"Authorization": given.encode().decode("latin-1")}
    answer = running.fetch(path, BODY if path == PATH else None, headers)
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert answer.error["code"] == "invalid_api_key"


def test_the_client_of_openai_reports_a_wrong_token(running: Running) -> None:
    with running.client() as client, pytest.raises(AuthenticationError):
        client.with_options(api_key="wrong").models.list()


def test_health_and_the_page_need_no_token(running: Running) -> None:
    assert running.fetch("/health").status == 200
    assert running.fetch("/").status == 200


@pytest.mark.parametrize(
    ("host", "is_accepted"),
    [
        ("localhost", True),
        ("LOCALHOST:8000", True),
        ("localhost.", True),
        ("127.0.0.1:80", True),
        ("[::1]:80", True),
        ("192.168.1.7", True),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("evil.example:80", False),
        ("127.0.0.1.evil.example", False),
        ("[evil.example]", False),
        ("", False),
    ],
)
def test_names_that_others_can_point_here_are_refused(
    running: Running, host: str, is_accepted: bool
) -> None:
    """DNS rebinding: a page of evil.example, which now resolves to this machine."""
    answer = running.fetch("/v1/models", None, authorized(running, Host=host))
    assert answer.status == (200 if is_accepted else 403)


@pytest.mark.parametrize(
    ("origin", "status"),
    [("http://localhost:9", 403), ("https://evil.example", 403), ("null", 403), ("same", 200)],
)
def test_pages_of_other_sites_are_refused(running: Running, origin: str, status: int) -> None:
    origin = running.address if origin == "same" else origin
    answer = running.fetch(PATH, BODY, authorized(running, Origin=origin))
    assert answer.status == status
    assert "Access-Control-Allow-Origin" not in answer.headers


def test_forms_of_pages_are_refused(running: Running) -> None:
    """A page may send text to another site without asking; JSON it may not."""
    headers = authorized(running, **{"Content-Type": "text/plain"})
    assert running.fetch(PATH, BODY, headers).status == 415


@pytest.mark.parametrize("size", [10_001, 50_000])
def test_a_body_that_is_too_large_is_refused(running: Running, size: int) -> None:
    answer = running.fetch(PATH, b" " * size, authorized(running))
    assert answer.status == 413 and answer.error["code"] == "body_too_large"


def test_a_body_without_a_length_is_counted(running: Running) -> None:
    host, port = running.address.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=20)
    headers = authorized(running, **{"Content-Type": "application/json"})
    chunks = (b" " * 1000 for _ in range(40))
    connection.request("POST", PATH, chunks, headers, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()


def test_a_body_that_does_not_come_is_not_awaited(running: Running) -> None:
    host, port = running.address.removeprefix("http://").split(":")
    bearer = authorized(running)["Authorization"].encode("latin-1")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: %b\r\n"
            b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{" % bearer
        )
        assert connection.recv(12) == b"HTTP/1.1 408"


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.1", False),
        ("example.org", False),
    ],
)
def test_addresses_of_this_machine_alone(host: str, expected: bool) -> None:
    assert is_loopback(host) == expected


def test_addresses_that_cannot_be_used() -> None:
    with listen("127.0.0.1", 0) as taken:
        taken.listen()
        with pytest.raises(UsageError, match="address already in use"):
            listen("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(UsageError, match="cannot listen on"):
        listen("no such name", 80)

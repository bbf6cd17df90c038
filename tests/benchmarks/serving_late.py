"""Measure how long ``/health`` and a request take while clients never end theirs.

``python -m tests.benchmarks.serving_late [--connections N] [--times N] [--out FILE]``

Half of the connections send the head of a request, the others its body, a byte at a time, and open
again when the server closes them. The model is tiny and has random weights.
"""

from __future__ import annotations

import argparse
import http.client
import json
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.benchmarks import machine
from tests.benchmarks.serving import PATH, build_model, run_server, train

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nX-Late: "
BODY = HEAD + b"1\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n"
DROP_SECONDS = 0.5


@contextmanager
def keep_late(port: int, count: int) -> Iterator[list[int]]:
    """Hold so many connections with unfinished requests; yield a list of those opened again."""
    is_done, opened = threading.Event(), list[int]()

    def drip() -> None:
        held: dict[int, socket.socket] = {}
        while not is_done.wait(DROP_SECONDS):
            for number in range(count):
                try:
                    if number not in held:
                        held[number] = socket.create_connection(("127.0.0.1", port), timeout=10)
                        held[number].sendall(BODY if number % 2 else HEAD)
                        opened.append(number)
                    held[number].sendall(b"x")
                except OSError:
                    held.pop(number).close()
        for connection in held.values():
            connection.close()

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        while len(set(opened)) < count:
            time.sleep(0.1)
        yield opened
    finally:
        is_done.set()
        thread.join()


def ask(port: int, method: str, path: str, body: str | None = None) -> int:
    """Return the status of a request over a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"})
        reply = connection.getresponse()
        reply.read()
        return reply.status
    finally:
        connection.close()


def time_requests(ask_once: Callable[[], int], times: int) -> dict[str, Any]:
    """Return the delays in milliseconds, and how many requests were answered."""
    delays, answered = list[float](), 0
    for _ in range(times):
        begin = time.perf_counter()
        try:
            answered += ask_once() == 200
        except OSError:
            continue
        finally:
            delays.append((time.perf_counter() - begin) * 1000)
        time.sleep(0.05)
    delays.sort()
    return {
        "answered": answered,
        "of": times,
        "median_ms": delays[times // 2],
        "most_ms": delays[-1],
    }


def measure(count: int, times: int) -> dict[str, Any]:
    """Time requests to a server without late clients, and with them."""
    request = {"model": "base", "messages": [{"role": "user", "content": "two"}], "max_tokens": 1}
    found: dict[str, Any] = {"late_connections": count}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = train(build_model(folder / "model"), folder)
        command = [sys.executable, "-m", "tunesmith", "serve", str(run), "--model", "base"]
        with run_server(command, folder / "log") as (port, _):

            def time_both() -> dict[str, Any]:
                return {
                    "health": time_requests(lambda: ask(port, "GET", "/health"), times),
                    "one_token": time_requests(
                        lambda: ask(port, "POST", PATH, json.dumps(request)), times
                    ),
                }

            found["without"] = time_both()
            with keep_late(port, count) as opened:
                found["with"] = time_both()
                found["opened_again"] = len(opened) - count
    return found


def main() -> None:
    """Measure, print the numbers; the exit code is 1 if a request was not answered."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--connections", type=int, default=200)
    parser.add_argument("--times", type=int, default=300)
    parser.add_argument("--out", type=Path, help="file for the results as JSON")
    options = parser.parse_args()
    found = measure(options.connections, options.times)
    text = json.dumps({"machine": machine.describe_machine(), **found}, indent=1)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    print(text)
    sys.exit(any(part["answered"] < part["of"] for part in found["with"].values()))


if __name__ == "__main__":
    main()

"""An OpenAI-compatible server that answers by the request alone, fails on demand, and counts."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FAULTS = ("429", "500", "hang", "cut body", "cut answer", "wrong schema", "not json")
"""Faults of the transport (the first four), which are gone at the next try, and of answers."""


class FaultyServer:
    """A server with faults for some requests; the key of a request is a digest of its body."""

    def __init__(self, faults: dict[int, str] | None = None, seconds: float = 0.0) -> None:
        self.faults, self.seconds = faults or {}, seconds
        self.requests: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.tokens = 0
        self.usage = {"prompt_tokens": 50, "completion_tokens": 20}
        self.headers: list[str] = []
        self.lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.answer(self)

            def log_message(self, *args: Any) -> None:
                """Print nothing."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"

    def __enter__(self) -> FaultyServer:
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.http.shutdown()
        self.http.server_close()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer a request, or fail."""
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        key = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:32]
        number = int(key, 16)
        fault = self.faults.get(number % 16, "")
        with self.lock:
            self.requests[key] += 1
            self.headers.append(str(handler.headers.get("Authorization")))
            is_first = self.requests[key] == 1
        time.sleep(self.seconds)
        if is_first and fault in ("429", "500"):
            handler.send_error(int(fault))
            return
        if is_first and fault == "hang":
            time.sleep(1.5)
            return
        content = {
            "choices": [
                {
                    "message": {"content": self.write(body, number, fault)},
                    "finish_reason": "length" if fault == "cut answer" else "stop",
                }
            ],
            "usage": self.usage,
        }
        raw = json.dumps(content).encode()
        with self.lock:
            self.answered[key] += not (is_first and fault == "cut body")
            self.tokens += 70
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(raw)))
        handler.end_headers()
        handler.wfile.write(raw[: len(raw) // 2] if is_first and fault == "cut body" else raw)

    def write(self, body: dict[str, Any], number: int, fault: str) -> str:
        """Return an answer that depends on the request alone."""
        label = re.search(r'exactly: "(\w+)"', body["messages"][-1]["content"])
        words = " ".join(hashlib.sha256(f"{number}/{n}".encode()).hexdigest()[:7] for n in range(6))
        row = {"prompt": f"new text {words}", "completion": label[1] if label else "card"}
        match fault:
            case "cut answer":
                return json.dumps(row)[:20]
            case "wrong schema":
                return json.dumps({"text": words})
            case "not json":
                return f"Sure! {words}"
        return json.dumps(row)

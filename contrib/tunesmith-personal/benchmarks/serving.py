"""Measure ``tunesmith serve`` with many users: requests per second, and answers of a wrong user.

Run from this folder::

    python -m benchmarks.serving RUN --users 1000 --requests 20000

RUN is a finished run of the technique ``personal``; a copy of it gets random adapters for further
users. Each answer is compared with the one that the user's adapter gives alone.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from tunesmith import api
from tunesmith.records import Message
from tunesmith_personal.segments import Layout
from tunesmith_personal.store import Entry, Store
from tunesmith_personal.technique import SHARED_ADAPTER, open_shared
from tunesmith_personal.user_models import copy_with_adapter

PROMPT, TOKENS = "invoice 1 user", 8


def add_users(run: Path, count: int) -> list[str]:
    """Store random adapters, and return the names of the users."""
    vector_P = Layout.read(run / SHARED_ADAPTER)[1]
    torch.manual_seed(0)
    names = [f"guest-{n:05}" for n in range(count)]
    for start in range(0, count, 64):
        block = names[start : start + 64]
        vectors = {name: vector_P + 0.3 * torch.randn_like(vector_P) for name in block}
        Store(run).add([Entry(user=name, note="", rows=1) for name in block], vectors)
    return names


def answer_alone(run: Path, users: list[str]) -> dict[str, str]:
    """Return each user's answer, computed alone."""
    _, plan, _ = api.load_run(run)
    options: Any = plan.technique.config
    model = plan.found_model.fetch()
    shared: Any = open_shared(model, run / SHARED_ADAPTER, options, "cpu")
    store, layout = Store(run), Layout.read(run / SHARED_ADAPTER)[0]
    found = {}
    for user in users:
        own = copy_with_adapter(shared, layout, store.vector(store.require(user)))
        found[user] = own.generate([(Message("user", PROMPT),)], TOKENS)[0].text
    return found


def ask_all(address: str, users: list[str], threads: int) -> list[str]:
    """Return the answers to one request for each item of ``users``, over open connections."""
    local = threading.local()
    host = address.removeprefix("http://")
    message = {"role": "user", "content": PROMPT}
    body = json.dumps({"model": "tuned", "max_tokens": TOKENS, "messages": [message]})

    def ask(user: str) -> str:
        if not hasattr(local, "connection"):
            local.connection = http.client.HTTPConnection(host, timeout=60)
        headers = {"Content-Type": "application/json", "X-Tunesmith-User": user}
        local.connection.request("POST", "/v1/chat/completions", body, headers)
        return str(json.load(local.connection.getresponse())["choices"][0]["message"]["content"])

    with ThreadPoolExecutor(threads) as pool:
        return [*pool.map(ask, users)]


def main() -> None:
    """Print the requests per second, and the number of wrong answers, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--resident", type=int, default=256)
    parser.add_argument("--threads", type=int, default=8)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        run = Path(name) / "run"
        shutil.copytree(asked.run, run)
        users = add_users(run, asked.users)
        alone = answer_alone(run, users)
        file = Path(name) / "extensions.toml"
        table = f'[users]\nrun = "{run}"\nserve = "all"\nresident = {asked.resident}\n'
        file.write_text(table, encoding="utf-8")
        command = [sys.executable, "-m", "tunesmith", "serve", str(run), "--model", "tuned"]
        process = subprocess.Popen(
            [*command, "--port", "0", "--extensions", str(file)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdout is not None
        address = re.search(r"http://\S+", process.stdout.readline())
        assert address
        chosen = random.Random(0).choices(users, k=asked.requests)
        started = time.perf_counter()
        answers = ask_all(address[0], chosen, asked.threads)
        seconds = time.perf_counter() - started
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    wrong = sum(a != alone[user] for user, a in zip(chosen, answers, strict=True))
    result = {
        "users": len(users),
        "different_answers": len({*alone.values()}),
        "requests": len(chosen),
        "requests_per_second": len(chosen) / seconds,
        "wrong_answers": wrong,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()

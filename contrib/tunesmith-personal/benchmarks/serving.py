"""Measure ``tunesmith serve`` with many users: requests per second, and answers of a wrong user.

Run from this folder::

    python -m benchmarks.serving RUN --users 1000 --requests 100000

RUN is a finished run of the technique ``personal``. A copy of it gets further users with random
adapters, and with each of the baselines. Each answer is compared with the one that the user's model
gives alone. Some requests name no user, who gets the shared adapter, or an unknown user, who gets
an error.
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
from collections import Counter
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path
from typing import Any

import torch

from tunesmith import api
from tunesmith.records import Message
from tunesmith_evidence.tasks.examples import Example
from tunesmith_personal.baselines import UserBaselines
from tunesmith_personal.segments import Layout
from tunesmith_personal.store import OWN, Decision, Entry, Store
from tunesmith_personal.technique import SHARED_ADAPTER, open_shared
from tunesmith_personal.user_models import copy_with_adapter

PROMPT, TOKENS = "invoice 1 user", 8
BASELINES = ("shared", "shared-retrieval", "base-retrieval", "classifier")
"""Models of 8 % of the users; the others have an own adapter."""
NOBODY, UNKNOWN = "", "guest-unknown"
OTHERS = (NOBODY, UNKNOWN)
"""The names in 2 % of the requests."""


def add_users(run: Path, count: int) -> list[str]:
    """Store random adapters and decisions, and return the names of the users."""
    vector_P = Layout.read(run / SHARED_ADAPTER)[1]
    torch.manual_seed(0)
    names = [f"guest-{n:05}" for n in range(count)]
    for start in range(0, count, 64):
        block = names[start : start + 64]
        vectors = {name: vector_P + 0.3 * torch.randn_like(vector_P) for name in block}
        Store(run).add([Entry(user=name, note="", rows=1) for name in block], vectors)
    decisions = []
    for number, name in enumerate(names):
        answers = [f"{name} {word}" for word in ("one", "two", "three")]
        examples = [Example(f"{PROMPT} {a}", a, f"{PROMPT} {a}") for a in answers]
        served = BASELINES[number % 50] if number % 50 < len(BASELINES) else OWN
        decisions.append(Decision(user=name, served=served, k=2, examples=examples))
    Store(run).record_decisions(decisions)
    return names


def answer_alone(run: Path, users: list[str]) -> dict[str, str]:
    """Return the answer of each user's model, computed alone; under NOBODY, without a user."""
    _, plan, _ = api.load_run(run)
    options: Any = plan.technique.config
    model = plan.found_model.fetch()
    shared: Any = open_shared(model, run / SHARED_ADAPTER, options, "cpu")
    base: Any = open_shared(model, None, options, "cpu")
    store, layout = Store(run), Layout.read(run / SHARED_ADAPTER)[0]
    models: dict[str, Any] = {NOBODY: shared}
    for user in users:
        entry = store.require(user)
        if entry.served == OWN:
            models[user] = copy_with_adapter(shared, layout, store.vector(entry))
        else:
            built = UserBaselines(shared, base)
            models[user] = built.build(str(entry.served), *store.read_examples(user))
    ask = [(Message("user", PROMPT),)]
    return {user: each.generate(ask, TOKENS)[0].text for user, each in models.items()}


def ask_all(address: str, users: list[str], threads: int, minutes: float) -> list[str | None]:
    """Return the answers to one request for each item of ``users``, over open connections.

    After so many minutes, no request is sent; its answer is None.
    """
    end = time.perf_counter() + 60 * minutes
    local = threading.local()
    host = address.removeprefix("http://")
    message = {"role": "user", "content": PROMPT}
    body = json.dumps({"model": "tuned", "max_tokens": TOKENS, "messages": [message]})

    def ask(user: str) -> str | None:
        if time.perf_counter() > end:
            return None
        if not hasattr(local, "connection"):
            local.connection = http.client.HTTPConnection(host, timeout=60)
        headers = {"Content-Type": "application/json"}
        if user != NOBODY:
            headers["X-Tunesmith-User"] = user
        local.connection.request("POST", "/v1/chat/completions", body, headers)
        response = local.connection.getresponse()
        answer = json.load(response)
        if response.status != HTTPStatus.OK:
            return f"status {response.status}"
        return str(answer["choices"][0]["message"]["content"])

    with ThreadPoolExecutor(threads) as pool:
        return [*pool.map(ask, users)]


def compute_chance_to_notice(answers: Collection[str]) -> float:
    """Return the probability that an answer of a random other user would be noticed."""
    counts = Counter(answers)
    pairs = len(answers) * (len(answers) - 1)
    return 1 - sum(n * (n - 1) for n in counts.values()) / pairs


def main() -> None:
    """Print the requests per second, and the number of wrong answers, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--minutes", type=float, default=240, help="then, no request is sent")
    parser.add_argument("--resident", type=int, default=256)
    parser.add_argument("--threads", type=int, default=8)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        run = Path(name) / "run"
        shutil.copytree(asked.run, run)
        users = add_users(run, asked.users)
        alone = answer_alone(run, users)
        file = Path(name) / "extensions.toml"
        table = f'[users]\nrun = "{run}"\nresident = {asked.resident}\n'
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
        rng = random.Random(0)
        known, others = rng.choices(users, k=asked.requests), rng.choices(OTHERS, k=asked.requests)
        chosen = [o if rng.random() < 0.02 else k for k, o in zip(known, others, strict=True)]
        started = time.perf_counter()
        answers = ask_all(address[0], chosen, asked.threads, asked.minutes)
        seconds = time.perf_counter() - started
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    expected = {**alone, UNKNOWN: "status 400"}
    answered = [pair for pair in zip(chosen, answers, strict=True) if pair[1] is not None]
    result = {
        "users": len(users),
        "different_answers": len({*alone.values()}),
        "chance_to_notice_a_crossed_answer": compute_chance_to_notice(alone.values()),
        "requests": len(answered),
        "requests_with_an_unknown_user": sum(user == UNKNOWN for user, _ in answered),
        "requests_per_second": len(answered) / seconds,
        "wrong_answers": sum(answer != expected[user] for user, answer in answered),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()

"""Serve a run's model to clients that behave badly, kill the server, and start it again.

``python -m tests.benchmarks.serving_abuse RUN [--requests N] [--clients N] [--out FILE]``

The prompts are those of the test rows. Some clients read an answer whole or as a stream; others
leave in the middle of a stream, read a stream byte by byte, send a body that is too large, a wrong
token, or no JSON. Every answer is compared with the one that the prompt gets alone, every refusal
with its status. After three quarters of the requests the server is killed (SIGKILL) while it
answers, and started again for the rest. At the end nothing may run or wait, ``tunesmith verify``
must accept the run folder, and its files must be those from before.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import os
import random
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.benchmarks import machine
from tests.benchmarks.serving import PATH, resident_mb, run_server

VARIABLE = "TUNESMITH_BENCHMARK_TOKEN"
MAX_BODY_BYTES = 20_000
MAX_TOKENS = 32
KINDS = ("whole", "stream", "leaves", "slow", "too large", "wrong token", "no JSON")
SHARES = (6, 6, 2, 2, 1, 1, 1)
"""Requests of each kind, out of their sum."""
STATUS = {"too large": 413, "wrong token": 401, "no JSON": 400}
BEFORE_KILL = 0.75
"""Share of the requests after which the server is killed."""
IDLE_SECONDS = 60
NEVER_WRITTEN = "lock"
"""File of a run folder that has no content."""


@dataclass(frozen=True)
class Case:
    """A prompt as messages, and its answer alone."""

    messages: list[dict[str, str]]
    expected: str


@dataclass
class Outcome:
    """Outcomes of the requests."""

    answers: Counter[str] = field(default_factory=Counter)
    """Requests by kind that ended as they should."""
    wrong: list[str] = field(default_factory=list)
    """Answers that are not those of the prompt alone, and refusals with another status."""
    failed: list[str] = field(default_factory=list)
    memory_mb: list[float] = field(default_factory=list)
    """Resident memory of the server, twice per second."""


def make_cases(run: Path) -> list[Case]:
    """Return the test prompts with the answers of the trained model, one at a time."""
    from tunesmith import api
    from tunesmith.execution.run_data import load_data
    from tunesmith.records import last_exchange
    from tunesmith_torch.export.reference import is_text_only

    folder, plan, _ = api.load_run(run)
    model = api.open_models(folder, plan)["tuned"]
    prompts = [last_exchange(record)[0] for record in load_data(plan)[1].test]
    cases = []
    for prompt in prompts:
        if not is_text_only(prompt):
            continue
        turns = (
            [("user", prompt)] if isinstance(prompt, str) else [(m.role, m.text) for m in prompt]
        )
        (answer,) = model.generate([prompt], MAX_TOKENS)
        messages = [{"role": role, "content": text} for role, text in turns]
        cases.append(Case(messages, answer.text))
    return cases


class Client:
    """Sends requests of every kind to a server, and compares what comes back."""

    def __init__(self, port: int, token: str, outcome: Outcome) -> None:
        self.port, self.token, self.outcome = port, token, outcome
        self.lock = threading.Lock()

    def send(self, kind: str, case: Case) -> None:
        """Send one request, and record how it ended."""
        try:
            problem = self._send(kind, case)
        except (OSError, ValueError, LookupError, http.client.HTTPException) as error:
            with self.lock:
                self.outcome.failed.append(f"{kind}: {type(error).__name__}: {error}"[:200])
            return
        with self.lock:
            if problem:
                self.outcome.wrong.append(f"{kind}: {problem}"[:300])
            else:
                self.outcome.answers[kind] += 1

    def _send(self, kind: str, case: Case) -> str:
        is_streamed = kind in ("stream", "leaves", "slow")
        request = {"model": "tuned", "messages": case.messages, "max_tokens": MAX_TOKENS}
        body = json.dumps({**request, "stream": is_streamed})
        if kind == "too large":
            body = json.dumps({**request, "user": "x" * MAX_BODY_BYTES})
        elif kind == "no JSON":
            body = body[:-1]
        token = "wrong" if kind == "wrong token" else self.token
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        try:
            connection.request("POST", PATH, body, headers)
            reply = connection.getresponse()
            if kind in STATUS or reply.status != 200:
                status = STATUS.get(kind, 200)
                return "" if reply.status == status else f"status {reply.status}, not {status}"
            if kind == "leaves":
                reply.readline()
                return ""
            text = _read_stream(reply, slowly=kind == "slow") if is_streamed else _read_whole(reply)
            return "" if text == case.expected else f"{text!r}, alone {case.expected!r}"
        finally:
            connection.close()


def _read_whole(reply: http.client.HTTPResponse) -> str:
    return json.loads(reply.read())["choices"][0]["message"]["content"] or ""


def _read_stream(reply: http.client.HTTPResponse, *, slowly: bool) -> str:
    """Return the text of a stream, which is complete if its last event says so."""
    data = b""
    while piece := reply.read(64) if slowly else reply.read():
        data += piece
        if slowly:
            time.sleep(0.02)
    events = [line[6:] for line in data.decode().splitlines() if line.startswith("data: ")]
    if events[-1:] != ["[DONE]"]:
        raise ValueError(f"the stream ends without its last event, after {len(events)}")
    deltas = [json.loads(event)["choices"][0]["delta"] for event in events[:-1]]
    return "".join(delta.get("content") or "" for delta in deltas)


def send_all(client: Client, pid: int, requests: Sequence[tuple[str, Case]], clients: int) -> None:
    """Send all requests from so many clients at once; watch the server's memory."""
    is_done = threading.Event()

    def watch() -> None:
        while not is_done.wait(0.5):
            client.outcome.memory_mb.append(resident_mb(pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(lambda request: client.send(*request), requests))
    is_done.set()
    watcher.join()


def wait_until_idle(port: int, token: str) -> list[str]:
    """Wait until no answer runs or waits; return the metrics that are not 0 in the end."""
    names = "tunesmith_(?:running_answers|waiting_answers|open_requests)"
    end, busy = time.monotonic() + IDLE_SECONDS, ["not asked"]
    while busy and time.monotonic() < end:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {token}"})
        text = connection.getresponse().read().decode()
        connection.close()
        busy = [m[0] for m in re.finditer(rf"^{names}.* (?!0\.0$)\S+$", text, re.MULTILINE)]
        time.sleep(0.2)
    return busy


def hash_files(run: Path) -> dict[str, str]:
    """Return the hash of every file of a run folder."""
    return {
        str(file.relative_to(run)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(run.rglob("*"))
        if file.is_file() and file.name != NEVER_WRITTEN
    }


def kill_while_answering(client: Client, pid: int, cases: Sequence[Case], clients: int) -> None:
    """Kill the server as soon as the first of many streams is complete."""
    outcome = client.outcome
    with ThreadPoolExecutor(clients) as pool:
        for number in range(4 * clients):
            pool.submit(client.send, "stream", cases[number % len(cases)])
        while not (outcome.answers or outcome.failed):
            time.sleep(0.005)
        os.kill(pid, signal.SIGKILL)


def measure(run: Path, count: int, clients: int) -> dict[str, Any]:
    """Run everything; return the numbers."""
    cases, rng = make_cases(run), random.Random(0)
    requests = [(rng.choices(KINDS, SHARES)[0], rng.choice(cases)) for _ in range(count)]
    before, token = hash_files(run), secrets.token_hex(16)
    command = [sys.executable, "-m", "tunesmith", "serve", str(run), "--model", "tuned"]
    command += ["--token-env", VARIABLE, "--max-body-bytes", str(MAX_BODY_BYTES)]
    first = round(count * BEFORE_KILL)
    os.environ[VARIABLE] = token
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        outcome, killed = Outcome(), Outcome()
        with run_server(command, Path(folder) / "first.log") as (port, pid):
            send_all(Client(port, token, outcome), pid, requests[:first], clients)
            busy = wait_until_idle(port, token)
            kill_while_answering(Client(port, token, killed), pid, cases, clients)
        again = Outcome()
        with run_server(command, Path(folder) / "again.log") as (port, pid):
            send_all(Client(port, token, again), pid, requests[first:], clients)
            busy += wait_until_idle(port, token)
    verify = [sys.executable, "-m", "tunesmith", "verify", str(run)]
    verified = subprocess.run(verify, capture_output=True, text=True, check=False)
    memory = outcome.memory_mb or [0.0]
    return {
        "requests": count,
        "clients": clients,
        "as_they_should": dict(outcome.answers + again.answers),
        "wrong": outcome.wrong + killed.wrong + again.wrong,
        "failed": outcome.failed + again.failed,
        "still_busy": busy,
        "cut_off_by_kill": len(killed.failed),
        "verify_exit_code": verified.returncode,
        "files_unchanged": hash_files(run) == before,
        "memory_mb_by_tenths": [round(memory[len(memory) * n // 10]) for n in range(10)],
        "memory_mb_at_the_end": round(memory[-1]),
        "memory_mb_most": round(max(memory)),
        "seconds": time.perf_counter() - started,
    }


def main() -> None:
    """Measure, print the numbers; the exit code is 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--out", type=Path, help="file for the results as JSON")
    options = parser.parse_args()
    found = {
        "machine": machine.describe_machine(),
        **measure(options.run, options.requests, options.clients),
    }
    text = json.dumps(found, indent=1, ensure_ascii=False)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    print(text)
    problems = found["wrong"] or found["failed"] or found["still_busy"]
    is_intact = found["verify_exit_code"] == 0 and found["files_unchanged"]
    sys.exit(0 if is_intact and not problems else 1)


if __name__ == "__main__":
    main()

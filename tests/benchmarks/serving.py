"""Measure ``tunesmith serve`` under load, beside ``transformers serve``, in one run.

``python -m tests.benchmarks.serving [--requests N] [--clients N] [--model FOLDER] [--out FILE]``

Each client sends one request after the other over a connection of its own. First every answer of
``tunesmith serve``, greedy and sampled, is compared with what the prompt gives alone, so that a
lost, cut or mixed-up answer is found; the memory of the server is read all the time. Then the
greedy requests go to both servers in turn, with the same model, and the ratio of their throughputs
is reported, for ``transformers serve`` with and without continuous batching. It needs ``pip install
"transformers[serving]"``.

Without ``--model`` the model is tiny and has random weights, so what is measured is the servers'
own work. Its answers depend on every token of the prompt. Tokens are counted by the servers.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.benchmarks import machine

WORDS = ("capital", "France", "Rome", "card", "refund", "ticket", "two", "seven", "answer", "the")
MOST_NEW_TOKENS = 48
SHORT = 8
"""Characters of answers that two requests may have in common."""
READY_SECONDS = 180
PATH = "/v1/chat/completions"
CONTINUOUS = "--continuous-batching"


@dataclass(frozen=True)
class Case:
    """A request without the name of the model, and the answer that its prompt gets alone."""

    body: Mapping[str, Any]
    expected: str
    is_greedy: bool


@dataclass
class Outcome:
    """The results of all requests to a server."""

    seconds: float = 0.0
    tokens: int = 0
    wrong_greedy: int = 0
    """Greedy answers that differ from what the prompt gets alone."""
    wrong_sampled: int = 0
    """The same for sampled ones; in a few, a random number lies within rounding of a border."""
    mixed_up: int = 0
    """Wrong answers that are those of another request."""
    failed: list[str] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    memory_mb: list[float] = field(default_factory=list)
    """Resident memory of the server, ten times per second."""

    def to_json(self, requests: int) -> dict[str, Any]:
        """Return the numbers; memory after a tenth of the requests, and at the end."""
        ordered, memory = sorted(self.latencies) or [0.0], self.memory_mb or [0.0]
        return {
            "requests_per_second": requests / self.seconds,
            "tokens_per_second": self.tokens / self.seconds,
            "median_seconds": ordered[len(ordered) // 2],
            "p99_seconds": ordered[len(ordered) * 99 // 100],
            "wrong_greedy": self.wrong_greedy,
            "wrong_sampled": self.wrong_sampled,
            "mixed_up": self.mixed_up,
            "failed": len(self.failed),
            "first_failure": self.failed[0][:200] if self.failed else "",
            "memory_mb_at_a_tenth": memory[len(memory) // 10],
            "memory_mb_at_the_end": memory[-1],
        }


def build_model(folder: Path) -> Path:
    """Save a tiny Llama whose weights are large enough for answers to vary."""
    import torch
    from transformers import AutoModelForCausalLM

    from tunesmith_torch.testing.tiny_model import build_tiny_config, build_tiny_tokenizer

    config = build_tiny_config("llama")
    config.initializer_range = 0.3
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    build_tiny_tokenizer().save_pretrained(folder)
    return folder


def train(model: Path, folder: Path) -> Path:
    """Run one step on the model: the server takes the folder of a run."""
    rows = [{"prompt": f"{word} {n}", "completion": word} for n, word in enumerate(WORDS * 3)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "run.toml").write_text(
        f'[model]\nbase = {json.dumps(str(model))}\n[data]\nuse = "jsonl"\ntrain = "rows.jsonl"\n'
        '[technique]\nuse = "lora"\nmax_steps = 1\nprecision = "fp32"\n[baselines]\nuse = []\n'
    )
    command = [sys.executable, "-m", "tunesmith", "run", str(folder / "run.toml"), "-q"]
    subprocess.run([*command, "--out", str(folder / "run")], check=True, capture_output=True)
    return folder / "run"


def make_cases(run: Path, count: int) -> list[Case]:
    """Return requests of many lengths, half of them sampled, with their answers alone."""
    from tunesmith import api
    from tunesmith.records import Message
    from tunesmith_torch.generation.generate import generate
    from tunesmith_torch.generation.sampling import Sampler
    from tunesmith_torch.generation.text_model import TorchTextModel

    folder, plan, _ = api.load_run(run)
    model = api.open_models(folder, plan, tuned=False, base=True)["base"]
    assert isinstance(model, TorchTextModel)
    rng, cases = random.Random(0), list[Case]()
    for number in range(count):
        text = " ".join(rng.choices(WORDS, k=rng.randint(1, 40)))
        limit, is_greedy = rng.randint(1, MOST_NEW_TOKENS), number % 2 == 0
        (row,) = generate(
            model.model,
            [model.template.encode_prompt((Message("user", text),))],
            max_new_tokens=limit,
            end_ids=model.template.end_ids,
            sampler=None if is_greedy else Sampler(temperature=0.9, seed=number),
        )
        ids = row.ids[:-1] if row.finish_reason == "stop" else row.ids
        body = {"messages": [{"role": "user", "content": text}], "max_tokens": limit}
        sampling = {"temperature": 0.9, "seed": number}
        body |= {"temperature": 0} if is_greedy else sampling
        cases.append(Case(body, model.template.decode_answer(ids), is_greedy))
    return cases


@contextmanager
def run_server(command: Sequence[str], log: Path) -> Iterator[tuple[int, int]]:
    """Run a server on a free port, given as its last argument; yield the port and process id."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with (
        log.open("w") as output,
        subprocess.Popen(
            [*command, "--port", str(port)], stdout=output, stderr=output, env=environment
        ) as process,
    ):
        try:
            wait_until_ready(port, process, log)
            yield port, process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def wait_until_ready(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the server answers."""
    end = time.monotonic() + READY_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"the server did not start: {log.read_text()[-400:]}")


def send_all(port: int, pid: int, model: str, cases: Sequence[Case], clients: int) -> Outcome:
    """Send all requests, from so many clients at once; measure the server meanwhile."""
    outcome, lock, is_done = Outcome(), threading.Lock(), threading.Event()
    known = {case.expected for case in cases if len(case.expected) > SHORT}

    def send_some(first: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        for case in cases[first::clients]:
            started = time.perf_counter()
            try:
                body = json.dumps({"model": model, **case.body})
                connection.request("POST", PATH, body, {"Content-Type": "application/json"})
                reply = connection.getresponse()
                answer = json.loads(reply.read())
                if reply.status != 200:
                    raise ValueError(f"status {reply.status}: {answer}")
                text = answer["choices"][0]["message"]["content"] or ""
                tokens = answer["usage"]["completion_tokens"]
            except (OSError, ValueError, LookupError, http.client.HTTPException) as error:
                connection.close()
                with lock:
                    outcome.failed.append(f"{type(error).__name__}: {error}")
                continue
            with lock:
                outcome.latencies.append(time.perf_counter() - started)
                outcome.tokens += tokens
                outcome.wrong_greedy += case.is_greedy and text != case.expected
                outcome.wrong_sampled += not case.is_greedy and text != case.expected
                outcome.mixed_up += text != case.expected and text in known
        connection.close()

    def watch_memory() -> None:
        while not is_done.wait(0.1):
            outcome.memory_mb.append(resident_mb(pid))

    watcher = threading.Thread(target=watch_memory)
    watcher.start()
    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(send_some, range(clients)))
    outcome.seconds = time.perf_counter() - started
    is_done.set()
    watcher.join()
    return outcome


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def measure(folder: Path, model: Path | None, requests: int, clients: int) -> dict[str, Any]:
    """Measure both servers; the first requests of each warm it up and are not counted."""
    model = model or build_model(folder / "model")
    run = train(model, folder)
    cases = make_cases(run, requests)
    greedy = [case for case in cases if case.is_greedy]
    results: dict[str, Any] = {"requests": requests, "clients": clients, "greedy": len(greedy)}
    ours = [sys.executable, "-m", "tunesmith", "serve", str(run), "--model", "base"]
    ours += ["--slots", "32", "--queue", str(clients)]
    with run_server(ours, folder / "tunesmith.log") as (port, pid):
        send_all(port, pid, "base", cases[: 2 * clients], clients)
        results["all"] = send_all(port, pid, "base", cases, clients).to_json(requests)
        found = send_all(port, pid, "base", greedy, clients).to_json(len(greedy))
        results["tunesmith"] = found
    if find_spec("fastapi") is None:
        results["transformers"] = {"error": 'pip install "transformers[serving]"'}
        return results
    theirs = [str(Path(sys.executable).parent / "transformers"), "serve", str(model)]
    theirs += ["--device", "cpu", "--dtype", "float32"]
    for name, options in (("transformers", []), ("transformers-continuous", [CONTINUOUS])):
        try:
            with run_server([*theirs, *options], folder / f"{name}.log") as (port, pid):
                send_all(port, pid, str(model), greedy[: 2 * clients], clients)
                outcome = send_all(port, pid, str(model), greedy, clients)
            results[name] = outcome.to_json(len(greedy))
            results[f"ratio-to-{name}"] = (
                found["tokens_per_second"] / results[name]["tokens_per_second"]
                if outcome.tokens
                else None
            )
        except RuntimeError as error:
            results[name] = {"error": f"{error!s:.500}"}
    return results


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.benchmarks.serving")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--model", type=Path, help="folder of a model; default: a tiny one")
    parser.add_argument("--out", type=Path, help="file for the results as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), options.model, options.requests, options.clients)
    found = {"machine": machine.describe_machine(), **machine.date_and_load(), **found}
    text = json.dumps(found, indent=1)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()

"""``tunesmith serve`` as a process: it starts, drains at a signal, and ends at the second one."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import tomli_w
from click.testing import CliRunner
from openai import OpenAI
from serving import fetch

from tunesmith_cli.app import app
from tunesmith_torch.testing.tiny_model import save_tiny_model

GUIDE = Path(__file__).parents[3] / "docs" / "how-to" / "serve.md"
pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that trained an adapter, with a classifier as its winner."""
    folder = tmp_path_factory.mktemp("served")
    save_tiny_model(folder / "tiny")
    labels = ("delivery", "invoice")
    rows = [
        {"prompt": f"ticket {n} is about the {labels[n % 2]}", "completion": labels[n % 2]}
        for n in range(120)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "run.toml").write_text(
        '[model]\nbase = "tiny"\n[data]\nuse = "jsonl"\ntrain = "rows.jsonl"\ntest_size = 60\n'
        '[technique]\nuse = "lora"\nmax_steps = 2\nprecision = "fp32"\n'
        '[baselines]\nuse = ["linear"]\n[verdict]\nmargin = 0.1\n'  # a perfect model is no better
    )
    done = CliRunner().invoke(app, ["run", str(folder / "run.toml"), "--out", str(folder / "run")])
    assert done.exit_code == 0, done.output
    return folder / "run"


@dataclass
class Served:
    """The process of a server."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def address(self) -> str:
        """The address that it printed."""
        return self.lines[0].rpartition(" ")[2]

    def end(self, seconds: float = 30) -> int:
        """Wait for the end; return the exit code."""
        return self.process.wait(seconds)


@contextmanager
def start(run: Path, *options: str, **environment: str) -> Iterator[Served]:
    command = [sys.executable, "-m", "tunesmith", "serve", str(run), "--port", "0", *options]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdout=pipe, stderr=pipe, text=True, env={**os.environ, **environment}
    ) as process:
        served, is_ready = Served(process), threading.Event()

        def read(stream: object, lines: list[str]) -> None:
            for line in stream:  # type: ignore[attr-defined]
                lines.append(line.rstrip())
                if line.startswith("serving"):
                    is_ready.set()

        for stream, lines in ((process.stdout, served.lines), (process.stderr, served.notes)):
            threading.Thread(target=read, args=(stream, lines), daemon=True).start()
        try:
            assert is_ready.wait(90), served.notes
            yield served
        finally:
            process.kill()


def ask(served: Served, tokens: int) -> str:
    with OpenAI(base_url=f"{served.address}/v1", api_key="none", max_retries=0) as client:
        answer = client.chat.completions.create(
            model="base", messages=[{"role": "user", "content": "hello"}], max_tokens=tokens
        )
    assert answer.usage is not None
    return f"{answer.usage.completion_tokens} {answer.choices[0].finish_reason}"


def test_a_signal_finishes_what_runs(run: Path) -> None:
    with start(run) as served, ThreadPoolExecutor(4) as pool:
        assert served.lines[0].startswith("serving tuned, base, winner at http://127.0.0.1:")
        models = json.loads(fetch(f"{served.address}/v1/models").text)["data"]
        assert [model["id"] for model in models] == ["tuned", "base", "winner"]
        body = {"model": "winner", "prompt": "ticket 7 is about the invoice"}
        winner = json.loads(fetch(f"{served.address}/v1/completions", body).text)
        assert winner["choices"][0]["text"] == "invoice"
        answers = [pool.submit(ask, served, 450) for _ in range(4)]
        wait_for_running(served, 4)
        served.process.send_signal(signal.SIGTERM)
        assert served.end() == 0
        assert all(answer.result() in ("450 length", "450 stop") for answer in answers)
        assert any(note.startswith("SIGTERM: finishing open requests") for note in served.notes)


def wait_for_running(served: Served, count: int) -> None:
    for _ in range(400):
        text = fetch(f"{served.address}/metrics").text
        found = re.search(r'tunesmith_running_answers\{model="base"\} (\d+)', text)
        if found and int(found[1]) >= count:
            return
        time.sleep(0.01)
    raise AssertionError("the answers do not run")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_ends_it_at_once(run: Path, number: signal.Signals) -> None:
    with start(run, "--model", "base") as served, ThreadPoolExecutor(8) as pool:
        turns = [{"role": "user", "content": "hello"}]
        body = {"model": "base", "messages": turns, "n": 8, "logprobs": True, "top_logprobs": 20}
        path = f"{served.address}/v1/chat/completions"
        lost = [pool.submit(fetch, path, body) for _ in range(8)]
        wait_for_running(served, 16)
        served.process.send_signal(number)
        while not served.notes or not served.notes[-1].startswith(number.name):
            time.sleep(0.01)
        served.process.send_signal(number)
        assert served.end(15) == 128 + number
        assert all(future.exception() for future in lost)


def test_other_machines_need_a_token(run: Path) -> None:
    with start(run, "--model", "base", "--host", "0.0.0.0") as served:
        served.lines[0] = served.lines[0].replace("0.0.0.0", "127.0.0.1")
        for _ in range(100):
            if len(served.lines) > 1:
                break
            time.sleep(0.02)
        token = served.lines[1].rpartition(" ")[2]
        assert len(token) == 48
        address = f"{served.address}/v1/models"
        assert fetch(address).status == 401
        assert fetch(address, None, {"Authorization": f"Bearer {token}"}).status == 200
        served.process.send_signal(signal.SIGINT)
        assert served.end() == 0


def test_a_token_of_the_environment_is_used_and_not_shown(run: Path) -> None:
    options = "--model", "base", "--token-env", "MY_TOKEN"
    with start(run, *options, MY_TOKEN="of-mine-1234") as served:
        address = f"{served.address}/v1/models"
        assert fetch(address).status == 401
        assert fetch(address, None, {"Authorization": "Bearer of-mine-1234"}).status == 200
        served.process.send_signal(signal.SIGTERM)
        assert served.end() == 0
        assert "of-mine" not in "".join([*served.lines, *served.notes])


@pytest.mark.long
def test_the_benchmark_finds_no_wrong_answer(tmp_path: Path) -> None:
    """At a small size: its numbers are those of a busy machine, its comparisons are exact."""
    from tests.benchmarks.serving import measure

    found = measure(tmp_path, None, 24, 4)
    for name in ("all", "tunesmith"):
        assert found[name]["wrong_greedy"] == found[name]["failed"] == found[name]["mixed_up"] == 0
    assert found["all"]["tokens_per_second"] > 0


@pytest.mark.long
def test_bad_clients_and_a_killed_server_change_no_answer(run: Path) -> None:
    from tests.benchmarks.serving_abuse import KINDS, measure

    found = measure(run, 60, 6)
    for name in ("wrong", "failed", "still_busy"):
        assert found[name] == [], name
    assert sum(found["as_they_should"].values()) == 60
    assert set(found["as_they_should"]) == set(KINDS)
    assert found["cut_off_by_kill"] > 0
    assert found["verify_exit_code"] == 0 and found["files_unchanged"]


def test_an_extension_adds_the_adapter_of_a_user(run: Path, tmp_path: Path) -> None:
    text = GUIDE.read_text(encoding="utf-8")
    (program,) = re.findall(r'```python title="by_user.py"\n(.*?)```', text, re.DOTALL)
    file, log = tmp_path / "by_user.py", tmp_path / "answers.jsonl"
    file.write_text(program, encoding="utf-8")
    (adapter,) = run.glob("**/adapter_config.json")
    options = tmp_path / "extensions.toml"
    adapters = {"ann": str(adapter.parent)}
    options.write_text(tomli_w.dumps({"by-user": {"adapters": adapters, "log": str(log)}}))
    command = ("--plugin", str(file), "--extensions", str(options), "--model", "base")
    with start(run, *command) as served:
        assert served.lines[0].startswith("serving base, of-ann at http://127.0.0.1:")
        body = {"model": "base", "messages": [{"role": "user", "content": "q"}], "max_tokens": 2}
        reply = fetch(f"{served.address}/v1/chat/completions", body, {"X-User": "ann"})
        assert json.loads(reply.text)["model"] == "of-ann"
        served.process.send_signal(signal.SIGTERM)
        assert served.end() == 0
    assert json.loads(log.read_text(encoding="utf-8"))["model"] == "of-ann"

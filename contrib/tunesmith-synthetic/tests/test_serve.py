"""Rows from the project's own ``tunesmith serve``: faults on the way, and a kill in the middle."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import make_rows
from faulty_server import FaultyServer
from generation import invoke, write_generation

from tunesmith.testing import ngram

FAULTS = {0: "429", 1: "500", 2: "hang", 3: "cut body", 4: "wrong schema", 5: "cut answer"}
"""Six sixteenths of the requests fail in some way."""


@pytest.fixture
def teacher(project: Path) -> Iterator[str]:
    """The address of a server for the tuned model of a run, in its own process."""
    pytest.importorskip("uvicorn")
    assert invoke("run", project / "run.toml", "--out", "teacher", "-q").exit_code == 0
    command = [sys.executable, "-m", "tunesmith", "serve", "teacher", "--port", "0"]
    process = subprocess.Popen(
        [*command, "--plugin", ngram.__file__, "--model", "tuned"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    found = re.search(r"http://\S+", process.stdout.readline())
    assert found
    yield found[0]
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0


class FaultyProxy(FaultyServer):
    """Passes requests on to a server, and counts, delays and damages them on the way."""

    def __init__(self, address: str, seconds: float = 0.0) -> None:
        super().__init__(FAULTS, seconds)
        self.address = address

    def write(self, body: dict[str, Any], number: int, fault: str) -> str:
        request = urllib.request.Request(
            f"{self.address}/v1/chat/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            text: str = json.load(answer)["choices"][0]["message"]["content"]
        return json.dumps({"answer": text}) if fault == "wrong schema" else text


def write_distillation(project: Path, server: FaultyServer, out: str) -> Path:
    """Write a generation file whose rows are the teacher's answers to a pool of 60 prompts."""
    pool = [row["prompt"] for row in make_rows(500, 60)]
    (project / "pool.txt").write_text("".join(f"{text}\n" for text in pool))
    generator = {
        "use": "endpoint", "url": server.url, "model": "tuned", "pool": "pool.txt",
        "timeout": 0.5, "pause": 0.01, "parallel": 3, "temperature": 0.0, "max_new_tokens": 20,
    }  # fmt: skip
    return write_generation(project, generator, out=out, share=0.9)


def test_a_killed_generation_ends_with_the_same_file(project: Path, teacher: str) -> None:
    """429, 500, a hanging server, a cut response, wrong answers, and kill -9 in the middle."""
    with FaultyProxy(teacher) as proxy:
        done = invoke("data", "generate", write_distillation(project, proxy, "calm"), "--json")
        assert done.exit_code == 0, done.output
        assert proxy.requests.total() > 60, "no fault was retried"
    card = json.loads(done.stdout)
    assert card["skipped"]["the answer was cut off"] > 0
    assert card["rejected"]["the answer is not a known label"] > 0
    assert 20 < card["rows"] < 60
    with FaultyProxy(teacher, seconds=0.02) as proxy:
        path = write_distillation(project, proxy, "killed")
        command = [sys.executable, "-m", "tunesmith", "data", "generate", str(path), "-q"]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        journal = project / "killed" / "journal.jsonl"
        while not (journal.is_file() and journal.read_bytes().count(b'"text"') >= 15):
            assert process.poll() is None
            time.sleep(0.005)
        process.kill()
        process.wait()
        lines = [line for line in journal.read_text().splitlines() if line.endswith("}")]
        kept = {row["key"] for row in map(json.loads, lines) if "text" in row}
        assert 15 <= len(kept) < 60 and not (project / "killed" / "synthetic.jsonl").exists()
        before = {key: proxy.requests[key] for key in kept}
        assert invoke("data", "generate", path, "-q").exit_code == 0
        assert {key: proxy.requests[key] for key in kept} == before, "an answer was sent for twice"
        assert all(count == 1 for key, count in proxy.answered.items() if key in kept)
    files = [project / name / "synthetic.jsonl" for name in ("calm", "killed")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_schema_needs_another_server(project: Path, teacher: str) -> None:
    """The error says why the server refuses the requests, and no row is kept."""
    generator = {"use": "endpoint", "url": f"{teacher}/v1", "model": "tuned", "pause": 0.0}
    done = invoke("data", "generate", write_generation(project, generator, count=9))
    assert done.exit_code == 4 and "response_format" in done.output
    generator |= {"structured": False, "max_new_tokens": 20, "temperature": 0.0}
    done = invoke("data", "generate", write_generation(project, generator, count=9))
    assert "the answer does not follow the schema" in done.output

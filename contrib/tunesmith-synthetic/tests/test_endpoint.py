"""The ``endpoint`` generator against a real local server that fails, hangs, lies and counts."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from faulty_server import FAULTS, FaultyServer
from generation import invoke, read_lines, request_of, write_generation

from tunesmith.contracts import BaselineTask, SkippedRow
from tunesmith.errors import ConfigError, EnvironmentProblem
from tunesmith.generators import GeneratedRow, GeneratorTask
from tunesmith.records import Completion
from tunesmith_synthetic.generators.endpoint import EndpointGenerator, describe_cost
from tunesmith_synthetic.generators.journal import Budget, Journal, Kept
from tunesmith_synthetic.generators.row_request import EndpointOptions

ALL_FAULTS = dict(enumerate(FAULTS))
"""Seven sixteenths of the requests fail in some way."""
TRAIN = [
    Completion(source=f"t:{n}", prompt=f"text {n} of many", completion=["card", "app"][n % 2])
    for n in range(20)
]


def make_task(folder: Path, count: int = 64) -> GeneratorTask:
    learned: Any = BaselineTask(train=TRAIN, base=lambda: None, seed=5)  # type: ignore[arg-type,return-value]
    return GeneratorTask(task=learned, count=count, folder=folder, solve=lambda name, rows: [])


def generate(
    server: FaultyServer, folder: Path, count: int = 64, **options: Any
) -> list[GeneratedRow | SkippedRow]:
    folder.mkdir(exist_ok=True)
    settings = {"url": server.url, "model": "teacher", "timeout": 0.5, "pause": 0.01, **options}
    return [*EndpointGenerator(EndpointOptions(**settings)).generate(make_task(folder, count))]


def texts(found: list[GeneratedRow | SkippedRow]) -> list[Any]:
    return [row.record if isinstance(row, GeneratedRow) else row.cause for row in found]


def test_faults_cost_no_row_if_the_next_try_succeeds(tmp_path: Path) -> None:
    with FaultyServer(ALL_FAULTS) as server:
        found = generate(server, tmp_path)
    causes = Counter(row.cause for row in found if isinstance(row, SkippedRow))
    assert set(causes) == {"the answer was cut off", "the answer does not follow the schema"}
    assert len(found) == 64 and causes.total() < 30
    assert max(server.requests.values()) == 2, "no fault was retried"
    assert set(server.answered.values()) == {1}


def test_the_rows_do_not_depend_on_timing_or_on_faults_of_the_transport(tmp_path: Path) -> None:
    transport = {n: fault for n, fault in ALL_FAULTS.items() if n < 4}
    with FaultyServer() as calm, FaultyServer(transport) as wild:
        first = generate(calm, tmp_path / "a", parallel=1)
        second = generate(wild, tmp_path / "b", parallel=8)
    assert texts(first) == texts(second) and all(isinstance(row, GeneratedRow) for row in first)


def test_labels_are_requested_equally_often_and_checked(tmp_path: Path) -> None:
    with FaultyServer() as server:
        found = generate(server, tmp_path, 20, personas=["a clerk"], attributes={"tone": ["angry"]})
        server.write = lambda *given: json.dumps({"prompt": "x", "completion": "other"})  # type: ignore[method-assign]
        wrong = generate(server, tmp_path / "b", 4)
    rows = [row for row in found if isinstance(row, GeneratedRow)]
    assert Counter(row.record.completion for row in rows) == {"card": 10, "app": 10}  # type: ignore[attr-defined]
    for row in rows:
        assert row.parent is not None and row.model == "teacher"
        assert TRAIN[row.parent].completion == row.record.completion  # type: ignore[attr-defined]
    assert texts(wrong) == ["the answer does not have the requested label"] * 4


def test_the_same_answers_are_read_from_the_journal(tmp_path: Path) -> None:
    with FaultyServer() as server:
        first = generate(server, tmp_path)
        again = generate(server, tmp_path)
        assert server.requests.total() == 64
        more = generate(server, tmp_path, 80)
        assert server.requests.total() == 80
    assert texts(first) == texts(again) == texts(more)[:64]


@pytest.mark.parametrize("parallel", [1, 6])
@pytest.mark.parametrize("limit", [0, 900, 3000, 20_000])
def test_the_budget_is_never_exceeded(tmp_path: Path, limit: int, parallel: int) -> None:
    options = {"max_tokens": limit or 1, "max_new_tokens": 30, "parallel": parallel}
    with FaultyServer(ALL_FAULTS) as server:
        found = generate(server, tmp_path, **options)
        assert server.tokens <= limit
    sent = sum(cause != "the budget is used up" for cause in texts(found))
    # A try reserves at most 1,800 tokens, uses 70, and counts with 80 if its answer is lost.
    assert sent * 70 <= limit and (sent == 64 or sent >= (limit - 1800) // 100)


@pytest.mark.parametrize("fault", ["cut body", "hang"])
def test_answers_that_were_lost_count_in_the_budget(tmp_path: Path, fault: str) -> None:
    """The server charges for each try, also if its answer did not arrive."""
    with FaultyServer(dict.fromkeys(range(16), fault)) as server:
        options = {"max_tokens": 6000, "max_new_tokens": 30, "timeout": 0.1, "parallel": 1}
        found = generate(server, tmp_path, **options)
        again = generate(server, tmp_path, **options)
        assert 1500 < 70 * server.requests.total() <= 6000
    assert "the budget is used up" in texts(again)
    rows = [
        [text for text in texts(each) if isinstance(text, Completion)] for each in (found, again)
    ]
    assert rows[0] == rows[1]


def test_requests_that_wait_for_each_others_budget_fail(tmp_path: Path) -> None:
    with FaultyServer(dict.fromkeys(range(16), "cut body")) as server:
        with pytest.raises(EnvironmentProblem, match="IncompleteRead"):
            generate(server, tmp_path, max_tokens=4000, max_new_tokens=30, parallel=4)
        assert 0 < server.tokens <= 4000


@pytest.mark.parametrize("usage", [{}, {"prompt_tokens": -90, "completion_tokens": 1}])
def test_a_server_that_does_not_count_uses_up_the_reserved_tokens(
    tmp_path: Path, usage: dict[str, int]
) -> None:
    with FaultyServer() as server:
        server.usage = usage
        generate(server, tmp_path, max_tokens=9000, max_new_tokens=30)
        assert 0 < server.requests.total() <= 9000 // 500


def test_the_budget_ends_at_the_same_request_whatever_the_timing(tmp_path: Path) -> None:
    found = []
    for parallel, seconds in ((1, 0.0), (8, 0.003)):
        with FaultyServer(seconds=seconds) as server:
            folder = tmp_path / f"{parallel}"
            found.append(texts(generate(server, folder, max_tokens=3000, parallel=parallel)))
    assert found[0] == found[1] and "the budget is used up" in found[0]
    assert sum(isinstance(row, Completion) for row in found[0]) >= (3000 - 1800) // 70


def test_the_price_is_a_budget(tmp_path: Path) -> None:
    prices = {"prompt_price": 2.0, "answer_price": 10.0}  # a request: 50 * 2 + 20 * 10 = 300
    with FaultyServer() as server:
        generate(server, tmp_path, max_price=0.006, max_new_tokens=30, **prices)
        assert 300 * sum(server.answered.values()) <= 6000 and server.answered.total() >= 5
    options = EndpointOptions(url="http://127.0.0.1/v1", model="x", max_price=2.5, **prices)
    assert "up to 100 requests" in describe_cost(options, 100)
    assert "it stops at 2.5" in describe_cost(options, 100)


KILLED = """
import sys
from pathlib import Path
sys.path[:0] = {path!r}
from test_endpoint import EndpointGenerator, EndpointOptions, make_task
options = EndpointOptions(url={url!r}, model="teacher", pause=0.01, timeout=0.5, parallel=3)
for row in EndpointGenerator(options).generate(make_task(Path({folder!r}))):
    pass
"""


@pytest.mark.parametrize("after", [3, 17, 40])
def test_after_a_kill_the_rows_are_the_same_and_no_answer_is_requested_twice(
    tmp_path: Path, after: int
) -> None:
    folder = tmp_path / "killed"
    folder.mkdir()
    journal = folder / "journal.jsonl"
    with FaultyServer(ALL_FAULTS) as calm:
        undisturbed = texts(generate(calm, tmp_path / "calm"))
    with FaultyServer(ALL_FAULTS, seconds=0.01) as server:
        code = KILLED.format(path=sys.path, url=server.url, folder=str(folder))
        process = subprocess.Popen([sys.executable, "-c", code])
        for _ in range(3000):
            if journal.exists() and journal.read_bytes().count(b'"text"') >= after:
                break
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        lines = [
            json.loads(line) for line in journal.read_bytes().splitlines() if line.endswith(b"}")
        ]
        kept = {line["key"] for line in lines if "text" in line}
        assert after <= len(kept) < 64
        before = Counter(server.requests)
        with journal.open("ab") as file:
            file.write(b'{"key": "cut')  # a line that the kill cut
        resumed = texts(generate(server, folder))
    assert resumed == undisturbed
    assert all(server.requests[key] == before[key] for key in kept), "an answer was requested twice"
    lost = {line["key"] for line in lines} - kept
    assert sum(server.requests.values()) <= 64 + 32 + len(lost)


def test_requests_that_were_lost_in_a_kill_count_in_the_budget(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    journal.write_text(json.dumps({"key": "k", "sent": [1500, 400]}) + "\n")
    with FaultyServer() as server:
        generate(server, tmp_path, max_tokens=4000)
        assert 0 < server.tokens <= 4000 - 1900


def test_a_server_that_always_fails_ends_the_generation(tmp_path: Path) -> None:
    with FaultyServer(seconds=1.0) as server, pytest.raises(EnvironmentProblem, match="timed out"):
        generate(server, tmp_path, timeout=0.02)
    assert server.requests.total() < 64
    with pytest.raises(EnvironmentProblem, match="refused"):
        generate(server, tmp_path, 2)


def test_the_pace_is_kept(tmp_path: Path) -> None:
    with FaultyServer() as server:
        start = time.monotonic()
        generate(server, tmp_path, 11, per_minute=1200, parallel=8)
        assert time.monotonic() - start >= 0.5


def test_the_key_comes_from_the_environment_and_stays_there(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEACHER_KEY", "secret-9f8e7d")
    with FaultyServer() as server:
        generator = {
            "use": "endpoint",
            "url": server.url,
            "model": "teacher",
            "token": "TEACHER_KEY",
        }
        done = invoke("data", "generate", write_generation(project, generator, count=5))
        assert done.exit_code == 0, done.output
        assert server.headers == ["Bearer secret-9f8e7d"] * 5
    for path in [p for p in project.rglob("*") if p.is_file()]:
        assert b"secret-9f8e7d" not in path.read_bytes(), path
    assert "secret-9f8e7d" not in done.output
    monkeypatch.delenv("TEACHER_KEY")
    done = invoke("data", "generate", write_generation(project, generator, count=6))
    assert done.exit_code == 4 and "TEACHER_KEY is not set" in done.output
    with pytest.raises(ConfigError, match="not the token itself"):
        request_of(project, {**generator, "token": "sk-abc"})


def test_a_teacher_answers_given_prompts(project: Path) -> None:
    """Sequence-level distillation."""
    (project / "pool.txt").write_text("What is a chip?\nWho pays the fee of an exchange?\n")
    with FaultyServer() as server:
        server.write = lambda body, *rest: f"It is {len(body['messages'][-1]['content'])}."  # type: ignore[method-assign]
        generator = {"use": "endpoint", "url": server.url, "model": "teacher", "pool": "pool.txt"}
        path = write_generation(project, generator, filter={"known_answers": False})
        done = invoke("data", "generate", path)
    assert done.exit_code == 0, done.output
    rows = read_lines(project / "synthetic" / "synthetic.jsonl")
    assert sorted(row["completion"] for row in rows) == ["It is 15.", "It is 32."]


def test_the_command_prints_the_cost_first(project: Path) -> None:
    generator = {"use": "endpoint", "url": "http://127.0.0.1:9/v1", "model": "x", "max_tokens": 500}
    done = invoke("data", "generate", write_generation(project, generator, count=7), "--dry-run")
    assert done.exit_code == 0 and "up to 7 requests" in done.output
    assert "it stops at 500 tokens" in done.output and not (project / "synthetic").exists()
    assert os.listdir(project)


def test_a_journal_keeps_answers_and_knows_lost_requests(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    answer = Kept("text \ud800 ü", False, 5, 7)
    with Journal(path) as journal:
        journal.note_sending("a", (10, 20))
        journal.note_sending("b", (1, 2))
        journal.note_sending("b", (1, 2))
        journal.add("b", answer)
    with path.open("ab") as file:
        file.write(b'{"key": "c", "te')
    again = Journal(path)
    assert again.known == {"b": answer} and again.lost == (11, 22)
    assert path.read_bytes().endswith(b"}\n")


def test_a_reservation_is_replaced_by_what_was_used() -> None:
    budget = Budget(EndpointOptions(url="http://127.0.0.1/v1", model="m", max_tokens=100), (0, 0))
    assert budget.reserve((60, 30))
    budget.release((60, 30), (10, 5))
    assert budget.reserve((60, 25))
    budget.release((60, 25), (60, 25))
    assert not budget.reserve((1, 0))


def test_equal_requests_are_sent_once(tmp_path: Path) -> None:
    """A pool may repeat a prompt; in an undisturbed run too, its answer is known then."""
    pool = tmp_path / "pool.txt"
    pool.write_text("one\ntwo\none\none\n")
    with FaultyServer(seconds=0.01) as server:
        found = generate(server, tmp_path / "a", pool=str(pool))
        again = generate(server, tmp_path / "a", pool=str(pool))
        assert sorted(server.requests.values()) == [1, 1]
    assert texts(found) == texts(again) and len(found) == 4
    assert sorted(Counter(row.completion for row in texts(found)).values()) == [1, 3]


def test_answers_after_a_lost_request_count_in_the_budget(tmp_path: Path) -> None:
    """The first of many requests was lost: it must not be sent as if the others were free."""
    journal = tmp_path / "journal.jsonl"
    with FaultyServer() as server:
        generate(server, tmp_path, max_tokens=3000, max_new_tokens=30, parallel=1)
        lines = journal.read_text().splitlines(keepends=True)
        assert '"sent"' in lines[0] and '"text"' in lines[1] and len(lines) > 40
        journal.write_text("".join([lines[0], *lines[2:]]))
        sent, before = json.loads(lines[0])["sent"], server.requests.total()
        generate(server, tmp_path, max_tokens=3000, max_new_tokens=30, parallel=1)
        known = 70 * (len(lines) // 2 - 1)
        assert known + 2 * sum(sent) > 3000 >= known + sum(sent), "it shows nothing"
        assert server.requests.total() == before


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        ("[" * 100_000, "the answer does not follow the schema"),
        ('{"prompt": "a \\ud800 b", "completion": "card"}', "it contains an unusable character"),
    ],
    ids=["deep", "surrogate"],
)
def test_hostile_answers_end_no_generation(project: Path, answer: str, cause: str) -> None:
    with FaultyServer() as server:
        server.write = lambda *given: answer  # type: ignore[method-assign]
        generator = {"use": "endpoint", "url": server.url, "model": "x", "answers": False}
        done = invoke("data", "generate", write_generation(project, generator, count=3))
    assert done.exit_code == 2 and "no row was kept" in done.output
    assert re.search(rf"{cause} +3", done.output)

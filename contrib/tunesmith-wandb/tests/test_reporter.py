"""The files of W&B contain what a run reported, also after faults and a resume.

A file is a log of LevelDB with the start ``:W&B``, whose records are messages of protobuf:
https://github.com/google/leveldb/blob/main/doc/log_format.md
"""

from __future__ import annotations

import json
import random
import struct
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import wandb
from wandb.proto.wandb_internal_pb2 import Record

import tunesmith
from tunesmith.events import Event, Measured, RunFinished, RunStarted, StepFinished
from tunesmith.storage import RunFolder
from tunesmith.testing import full_disk, sample_event, sample_run, send_events
from tunesmith_evidence.tracking import TrackedRun
from tunesmith_wandb import reporter
from tunesmith_wandb.reporter import WandbOptions, WandbTracker

SECRET = "hf_" + "aB3dE5gH7jK9mN1pQ3rS5tU7vW9xY1zA3b"
BLOCK, HEADER = 32_768, 7


def read_records(path: Path) -> Iterator[Record]:
    """Yield the records of a file, whose long records continue in the next block."""
    data = path.read_bytes()
    assert data[:4] == b":W&B"
    position, message = HEADER, b""
    while position + HEADER <= len(data):
        if BLOCK - position % BLOCK < HEADER:
            position += BLOCK - position % BLOCK
            continue
        _, size, kind = struct.unpack_from("<IHB", data, position)
        message += data[position + HEADER : position + HEADER + size]
        position += HEADER + size
        if kind in (1, 4):  # a whole record, or the last part of one
            yield Record.FromString(message)
            message = b""


@dataclass
class Stored:
    """The contents of one run's offline files, in the order of the files."""

    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    ids: set[str] = field(default_factory=set)
    exit_codes: list[int] = field(default_factory=list)


def read(folder: Path) -> Stored:
    found = Stored()
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        for record in read_records(path):
            if record.run.run_id:
                found.ids.add(record.run.run_id)
            for item in record.run.config.update:
                found.config[item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
            for item in record.summary.update:
                found.summary[item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
            row = {
                i.key or ".".join(i.nested_key): json.loads(i.value_json)
                for i in record.history.item
            }
            for name, value in row.items():
                if not name.startswith("_") and name != "step" and "step" in row:
                    found.curves.setdefault(name, []).append((row["step"], value))
            if record.HasField("exit"):
                found.exit_codes.append(record.exit.exit_code)
    return found


def send(boards: Path, run: Path, events: Iterable[Event], wait: float = 30) -> list[str]:
    """Send events like a run does; return the problems that became warnings."""
    run.mkdir(exist_ok=True)
    options = WandbOptions(folder=str(boards), wait=wait)
    return send_events(lambda: reporter.build(options, RunFolder(run)), events)


def test_the_readme_runs_and_its_files_are_read_back(
    readme_run_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = {"technique.max_steps": 4, "baselines.use": ["majority"]}
    run = tunesmith.run(readme_run_file, set=options)
    assert not [f.message for f in run.report.findings if "wandb" in f.message]
    assert "wandb" not in "".join(capfd.readouterr()), "it prints to the terminal"
    stored = read(tmp_path / "boards")
    losses = {step: pytest.approx(value) for step, value in stored.curves["train/loss"]}
    assert losses == {step.step: step.loss for step in run.report.steps_of("")}
    verdict = run.report.verdict
    assert stored.summary["verdict"] == verdict["word"] and stored.exit_codes == [0]
    assert stored.config["technique.use"] == "lora" and verdict["comparisons"]
    for name, found in verdict["comparisons"].items():
        prefix = f"paired/{verdict['metric']}/tuned-minus-{name}"
        for part in ("difference", "low", "high", "n"):
            assert stored.summary[f"{prefix}/{part}"] == found[part]
    for measured in run.report.tuned:
        label = run.report.metric_label(measured.evaluator, measured.metric)
        assert stored.summary[f"test/{label}/tuned/low"] == measured.low
    (card,) = (tmp_path / "boards").glob("wandb/offline-run-*/files/media/html/card*.html")
    assert verdict["word"] in card.read_text()


def test_a_resumed_run_continues_the_run_with_its_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["tunesmith", "run", "--set", f"model.token={SECRET}"])

    def steps(*numbers: int) -> list[Event]:
        return [sample_event(StepFinished, step=n, loss=1 / n, metrics={}) for n in numbers]

    started = sample_event(RunStarted, plan={"token": SECRET})
    state, boards = random.getstate(), tmp_path / "boards"
    assert not send(boards, tmp_path / "run", [started, *steps(1, 2, 3)])
    time.sleep(1.1)  # the names of folders have the second
    score = sample_event(Measured)
    again = [replace(started, resumed=True), *steps(3, 4), score, sample_event(RunFinished)]
    assert not send(boards, tmp_path / "run", again)
    assert random.getstate() == state, "it draws random numbers of the run"
    stored = read(boards)
    assert [step for step, _ in stored.curves["train/loss"]] == [1, 2, 3, 4]
    assert len(stored.ids) == 1 and stored.exit_codes == [1, 0]
    assert "test/sample/tuned/value" in stored.summary and stored.summary["status"] == "ok"
    files = [path for path in boards.rglob("*") if path.is_file()]
    assert files and all(SECRET.encode() not in path.read_bytes() for path in files)


def test_another_project_gets_the_whole_run(tmp_path: Path) -> None:
    for project in ("one", "two"):
        boards = tmp_path / "boards"
        options = WandbOptions(folder=str(boards), project=project, wait=30)
        build = lambda: reporter.build(options, RunFolder(tmp_path))  # noqa: B023, E731
        assert not send_events(build, [sample_event(RunStarted), sample_event(StepFinished)])
        time.sleep(1.1)  # the names of folders have the second
    assert len(read(boards).curves["train/loss"]) == 2


def test_without_a_key_the_terminal_is_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    asked: list[object] = []
    prompt = "wandb.sdk.lib.wbauth.prompt.prompt_and_save_api_key"
    monkeypatch.setattr(prompt, lambda **given: asked.append(given))
    options = WandbOptions(folder=str(tmp_path), mode="online", wait=30)
    build = lambda: reporter.build(options, RunFolder(tmp_path))  # noqa: E731
    problems = send_events(build, sample_run(steps=3))
    assert "WANDB_API_KEY" in problems[0] and not asked


def test_a_folder_that_cannot_be_created_becomes_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    problems = send(tmp_path / "file", tmp_path / "run", sample_run())
    assert "FileExistsError" in problems[0]


def test_a_full_disk_becomes_a_warning(tmp_path: Path) -> None:
    wandb.teardown()  # W&B's process of an earlier test has no limit
    before = time.perf_counter()
    with full_disk(30_000):
        problems = send(tmp_path / "boards", tmp_path / "run", sample_run(steps=1000), wait=5)
    assert problems and time.perf_counter() - before < 20


def test_a_process_that_dies_becomes_a_warning(tmp_path: Path) -> None:
    def events() -> Iterator[Event]:
        for number, event in enumerate(sample_run(steps=300)):
            if number == 100:
                time.sleep(3)
                kill_children()
            yield event

    before = time.perf_counter()
    problems = send(tmp_path / "boards", tmp_path / "run", events(), wait=5)
    assert problems and time.perf_counter() - before < 15


def kill_children() -> None:
    """Kill the processes that this process started."""
    import psutil

    for child in psutil.Process().children(recursive=True):
        child.kill()


def test_a_hanging_server_does_not_delay_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang(self: WandbTracker, run: TrackedRun) -> Mapping[str, int]:
        time.sleep(1e6)
        return {}

    monkeypatch.setattr(WandbTracker, "start", hang)
    before = time.perf_counter()
    (problem,) = send(tmp_path, tmp_path / "run", sample_run(steps=100), wait=1)
    assert "does not respond" in problem and time.perf_counter() - before < 4

"""The database of trackio contains what a run reported, also after faults and a resume."""

from __future__ import annotations

import json
import random
import sqlite3
import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from trackio.utils import TRACKIO_DIR

import tunesmith
from tunesmith.events import Event, Measured, RunFinished, RunStarted, StepFinished
from tunesmith.storage import RunFolder
from tunesmith.testing import full_disk, sample_event, sample_run, send_events
from tunesmith_evidence.tracking import TrackedRun
from tunesmith_trackio import reporter
from tunesmith_trackio.reporter import TrackioOptions, TrackioTracker

SECRET = "hf_" + "aB3dE5gH7jK9mN1pQ3rS5tU7vW9xY1zA3b"


def query(project: str, text: str) -> list[tuple[Any, ...]]:
    """Query the database of a project without trackio."""
    with closing(sqlite3.connect(TRACKIO_DIR / f"{project}.db")) as database:
        return database.execute(text).fetchall()


def read(project: str) -> tuple[dict[str, list[tuple[int, Any]]], dict[str, Any]]:
    """Return the steps and values of each metric, and the configuration of the only run."""
    curves: dict[str, list[tuple[int, Any]]] = {}
    for step, text in query(project, "SELECT step, metrics FROM metrics ORDER BY id"):
        for name, value in json.loads(text).items():
            curves.setdefault(name, []).append((step, value))
    ((config,),) = query(project, "SELECT config FROM configs")
    return curves, json.loads(config)


def send(project: str, run: Path, events: Iterable[Event]) -> list[str]:
    """Send events like a run does; return the problems that became warnings."""
    run.mkdir(exist_ok=True)
    options = TrackioOptions(project=project, wait=20)
    return send_events(lambda: reporter.build(options, RunFolder(run)), events)


def test_the_readme_runs_and_its_database_is_read_back(readme_run_file: Path) -> None:
    options = {"technique.max_steps": 4, "baselines.use": ["majority"]}
    run = tunesmith.run(readme_run_file, set=options)
    assert not [f.message for f in run.report.findings if "trackio" in f.message]
    curves, config = read("tickets")
    assert dict(curves["train/loss"]) == {s.step: s.loss for s in run.report.steps_of("")}
    verdict = run.report.verdict
    assert config["verdict"] == verdict["word"] and config["technique.use"] == "lora"
    assert verdict["comparisons"] and verdict["word"] in str(curves["card"])
    for name, found in verdict["comparisons"].items():
        prefix = f"paired/{verdict['metric']}/tuned-minus-{name}"
        for part in ("difference", "low", "high", "n"):
            assert curves[f"{prefix}/{part}"] == [(0, found[part])]
    for measured in run.report.tuned:
        label = run.report.metric_label(measured.evaluator, measured.metric)
        assert curves[f"test/{label}/tuned/low"] == [(0, measured.low)]


def test_a_resumed_run_continues_its_run(tmp_path: Path) -> None:
    def steps(*numbers: int) -> list[Event]:
        return [sample_event(StepFinished, step=n, loss=1 / n, metrics={}) for n in numbers]

    started = sample_event(RunStarted, plan={"token": SECRET})
    state = random.getstate()
    assert not send("resumed", tmp_path / "run", [started, *steps(1, 2, 3)])
    score = sample_event(Measured)
    again = [replace(started, resumed=True), *steps(3, 4), score, sample_event(RunFinished)]
    for _ in range(2):
        assert not send("resumed", tmp_path / "run", again)
    assert random.getstate() == state, "it draws random numbers of the run"
    curves, config = read("resumed")
    assert [step for step, _ in curves["train/loss"]] == [1, 2, 3, 4]
    assert len(curves["test/sample/tuned/value"]) == 1 and config["status"] == "ok"
    assert len(query("resumed", "SELECT DISTINCT run_id FROM metrics")) == 1
    assert SECRET not in json.dumps([curves, config])


def test_another_run_of_the_same_name_is_another_run(tmp_path: Path) -> None:
    for number in (1, 2):
        started = sample_event(RunStarted, started=f"2026-01-0{number}T00:00:00+00:00")
        send("two", tmp_path / "run", [started, sample_event(StepFinished)])
    assert len(query("two", "SELECT DISTINCT run_id FROM metrics")) == 2


def test_a_full_disk_becomes_a_warning(tmp_path: Path) -> None:
    assert not send("full", tmp_path / "run", sample_run())
    size = (Path(TRACKIO_DIR) / "full.db").stat().st_size
    with full_disk(size + 20_000):
        problems = send("full", tmp_path / "run", sample_run(steps=400))
    assert problems and "disk" in problems[0].lower()
    curves, _ = read("full")
    assert curves["train/loss"][0][0] == 1, "what was written before is lost"


def test_a_failing_database_becomes_a_warning(tmp_path: Path) -> None:
    (Path(TRACKIO_DIR) / "broken.db").write_bytes(b"not a database" * 100)
    problems = send("broken", tmp_path / "run", sample_run())
    assert "DatabaseError" in problems[0]


def test_a_hanging_database_does_not_delay_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang(self: TrackioTracker, run: TrackedRun) -> Mapping[str, int]:
        time.sleep(1e6)
        return {}

    monkeypatch.setattr(TrackioTracker, "start", hang)
    options = TrackioOptions(project="hang", wait=1)
    before = time.perf_counter()
    build = lambda: reporter.build(options, RunFolder(tmp_path))  # noqa: E731
    (problem,) = send_events(build, sample_run(steps=100))
    assert "does not respond" in problem and time.perf_counter() - before < 4

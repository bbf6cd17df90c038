"""The fold of a log agrees with tunesmith's own report, and survives damage."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import sample_runs

from tunesmith import api
from tunesmith.events import (
    CompletionSampled,
    FindingReported,
    Measured,
    StepFinished,
    TrainingFinished,
)
from tunesmith.storage import LEASE_FILE, LockHolder
from tunesmith.testing import sample_event
from tunesmith_tui import event_tail
from tunesmith_tui.run_state import LOSS, MAX_FINDINGS, RunState


def read(path: Path) -> RunState:
    run = RunState(path)
    run.check()
    run.advance(float("inf"))
    return run


def test_it_agrees_with_the_report(tmp_path: Path) -> None:
    path = sample_runs.write_run(tmp_path, "run", sample_runs.list_events())
    run, report = read(path), api.read_report(path)
    losses = [(step.step, step.loss) for step in report.steps_of("")]
    assert [(b.step, b.mean) for b in run.stages[""].curves[LOSS].buckets()] == losses
    assert (run.status, run.name) == (report.status, report.name) == ("ok", "tickets")
    assert run.findings == report.findings and run.report.measured == report.measured
    assert run.peak_memory == report.peak_memory
    assert run.seconds == max(report.training_seconds, *report.part_seconds.values())
    assert run.tokens == sum(step.tokens for step in report.steps.values())
    assert run.score is not None and run.score.model == "tuned"
    assert (run.damaged_count, run.phase, run.phases) == (0, "", [("data", 0.1)])
    assert run.first_batches[""].rows[0].title == "row 1"


def test_the_result_does_not_depend_on_the_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = sample_runs.write_run(tmp_path, "run", sample_runs.list_events())
    whole = read(path)
    monkeypatch.setattr(event_tail, "CHUNK", 100)
    parts = RunState(path)
    content, log = (path / "events.jsonl").read_bytes(), path / "events.jsonl"
    log.write_bytes(b"")
    for start in range(0, len(content), 777):
        with log.open("ab") as file:
            file.write(content[start : start + 777])
        parts.check()
        parts.advance(float("inf"))
    assert parts.report == whole.report and parts.lines == whole.lines
    buckets = [run.stages[""].curves[LOSS].buckets() for run in (parts, whole)]
    assert buckets[0] == buckets[1]


def test_damaged_lines_are_counted_and_the_rest_is_read(tmp_path: Path) -> None:
    path = sample_runs.write_run(tmp_path, "run", sample_runs.list_events())
    clean = read(path)
    lines = (path / "events.jsonl").read_bytes().splitlines()
    outside = sample_runs.measure("tuned", 0.1).to_json() | {"records": "../../secret"}
    step = sample_event(StepFinished, step=41, steps=40)
    endless = step.to_json() | {"memory_bytes": {"$number": "Infinity"}}
    bad = [b"\x00\xff{", b"[1]", b"{}", b'{"event": "step-finished"}', b"[" * 100_000,
           b'{"event": "finding", "level": 3}', json.dumps(outside).encode(),
           b'{"event": "step-finished", "step": 1e999}', b""]  # fmt: skip
    bad.append(json.dumps(endless).encode())
    damaged = [*lines[:5], *bad, *lines[5:], b'{"event": "run-fin']
    (path / "events.jsonl").write_bytes(b"\n".join(damaged))
    run = read(path)
    assert run.damaged_count == len(bad) and run.damaged == [6, 7, 8]
    assert run.report == clean.report and run.status == "ok"


def test_a_resume_continues_the_curves(tmp_path: Path) -> None:
    path = sample_runs.write_run(tmp_path, "run", sample_runs.list_events(done=20, ends=False))
    run = read(path)
    more = list(sample_runs.list_events())
    began = next(n for n, event in enumerate(more) if event.kind == "training-started")
    more[began] = replace(more[began], first_step=10)
    rest = [
        replace(event, loss=event.loss + 1) if isinstance(event, StepFinished) else event
        for event in more
        if not isinstance(event, StepFinished) or event.step > 10
    ]
    before = run.stages[""].curves[LOSS].buckets()
    sample_runs.write_lines(path / "events.jsonl", rest, "a")
    run.check()
    run.advance(float("inf"))
    after = run.stages[""].curves[LOSS].buckets()
    assert [bucket.step for bucket in after] == list(range(1, 41)) and run.status == "ok"
    report = api.read_report(path)
    assert run.tokens == sum(step.tokens for step in report.steps.values())
    assert run.training_seconds == pytest.approx(report.training_seconds)
    assert after[:10] == before[:10]
    assert [b.mean for b in after[10:20]] == [b.mean + 1 for b in before[10:]]


def test_the_peak_of_the_memory_may_be_before_the_last_step(tmp_path: Path) -> None:
    sizes = (2**30, 2**31, 2**20)
    steps = [
        sample_event(StepFinished, step=n, steps=9, memory_bytes=s) for n, s in enumerate(sizes, 1)
    ]
    run = read(sample_runs.write_run(tmp_path, "run", steps))
    assert run.peak_memory == api.read_report(run.path).peak_memory == 2**31


def test_training_that_ends_early_is_not_in_progress(tmp_path: Path) -> None:
    events = [*sample_runs.list_events(done=25, ends=False), sample_event(TrainingFinished)]
    run = read(sample_runs.write_run(tmp_path, "run", events))
    (stage,) = run.stages.values()
    assert (stage.step, stage.steps) == (25, 25)


def test_a_replaced_log_starts_anew(tmp_path: Path) -> None:
    path = sample_runs.write_run(tmp_path, "run", sample_runs.list_events())
    run = read(path)
    sample_runs.write_lines(path / "new", sample_runs.list_events("other", done=3, ends=False))
    (path / "new").replace(path / "events.jsonl")
    assert run.check()
    run.advance(float("inf"))
    assert (run.name, run.stages[""].step, run.status) == ("other", 3, "unfinished")


def test_a_folder_that_vanishes(tmp_path: Path) -> None:
    path = sample_runs.write_run(tmp_path, "run", sample_runs.list_events())
    run = RunState(path)
    run.check()
    shutil.rmtree(path)
    run.advance(float("inf"))
    assert run.check() and run.status == "gone" and not run.tail.is_behind


def test_a_run_is_running_while_its_process_may_be_alive(tmp_path: Path) -> None:
    path = sample_runs.write_run(tmp_path, "run", sample_runs.list_events(done=3, ends=False))
    assert read(path).status == "unfinished"
    holder = LockHolder.current()
    lease = path / LEASE_FILE
    lease.write_text(json.dumps(asdict(holder)))
    run = read(path)
    assert run.status == "running"
    lease.write_text(json.dumps(asdict(replace(holder, process=f"{holder.process}0"))))
    assert run.check() and run.status == "unfinished"  # it was killed


def test_the_memory_is_bounded(tmp_path: Path) -> None:
    path = sample_runs.write_run(tmp_path, "run", [])
    events = [sample_event(CompletionSampled, "x" * 100, step=n) for n in range(500)]
    findings = [sample_event(FindingReported, f"{n}") for n in range(2 * MAX_FINDINGS)]
    scores = [sample_event(Measured, f"{n}", part="validation") for n in range(100)]
    steps = [sample_event(StepFinished, step=n, stage=f"s{n}") for n in range(1, 100)]
    names = [sample_event(StepFinished, f"metric {n}", step=n) for n in range(1, 100)]
    sample_runs.write_lines(path / "events.jsonl", [*events, *findings, *scores, *names, *steps])
    run = read(path)
    assert len(run.findings) == MAX_FINDINGS and not run.report.samples
    assert len(run.validation) < 30 and len(run.stages) < 20
    assert len(run.stages[""].curves) < 30 and run.damaged_count == 88

"""A tracker gets curves, intervals and the verdict; one that fails never stops or delays a run."""

from __future__ import annotations

import errno
import json
import random
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

import tunesmith
from tunesmith.errors import EnvironmentProblem
from tunesmith.events import (
    Event,
    Measured,
    Monitored,
    RunFinished,
    RunStarted,
    StepFinished,
    TrainingFinished,
)
from tunesmith.storage import RunFolder
from tunesmith.testing import ngram, sample_event, sample_run, send_events
from tunesmith_evidence import tracking
from tunesmith_evidence.tracking import (
    TrackedResults,
    TrackedRun,
    TrackerOptions,
    TrackerReporter,
)

SECRET = "hf_" + "aB3dE5gH7jK9mN1pQ3rS5tU7vW9xY1zA3b"


@dataclass
class Memory:
    """Stores everything; ``known`` is what it has from before."""

    known: Mapping[str, int] = field(default_factory=dict)
    runs: list[TrackedRun] = field(default_factory=list)
    values: list[tuple[int, Mapping[str, float]]] = field(default_factory=list)
    results: list[TrackedResults] = field(default_factory=list)
    closed: int = 0
    threads: set[str] = field(default_factory=set)

    def start(self, run: TrackedRun) -> Mapping[str, int]:
        self.runs.append(run)
        return self.known

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.threads.add(threading.current_thread().name)
        self.values.append((step, values))

    def finish(self, results: TrackedResults) -> None:
        self.results.append(results)

    def close(self) -> None:
        self.closed += 1


def send(tracker: tracking.Tracker, folder: Path, events: Iterable[Event]) -> list[str]:
    """Send events like a run does; return the problems that became warnings."""
    return send_events(
        lambda: TrackerReporter(tracker, TrackerOptions(wait=0.5), RunFolder(folder)), events
    )


def verdict_event() -> RunFinished:
    found = {"difference": 0.4, "low": 0.3, "high": 0.5, "n": 120, "p_value": 0.001, "value": 0.3}
    verdict = {
        "word": "FINE-TUNE",
        "sentence": f"It is worth it, {SECRET}.",
        "evaluator": "exact-match",
        "metric": "exact-match",
        "comparisons": {"zero-shot": found, "odd": {"difference": None}},
    }
    return sample_event(RunFinished, verdict=verdict)


def test_a_run_becomes_curves_intervals_and_tags(tmp_path: Path) -> None:
    tracker = Memory()
    (tmp_path / "adapter").mkdir()
    plan = {"technique": {"use": "lora", "rank": 8}, "data": {"url": f"https://x/?t={SECRET}"}}
    state = random.getstate()
    problems = send(
        tracker,
        tmp_path,
        [
            sample_event(StepFinished),  # before the run: ignored
            sample_event(RunStarted, name="tickets", plan=plan),
            sample_event(StepFinished, step=1, loss=2.0, metrics={"kl?": 0.5}),
            sample_event(StepFinished, step=2, loss=float("nan"), stage="reward"),
            sample_event(Monitored, step=2, metrics={"validation_loss": 1.5}),
            sample_event(Measured, evaluator="exact-match", metric="exact-match"),
            sample_event(TrainingFinished, artifact="adapter"),
            verdict_event(),
        ],
    )
    assert problems == [] and tracker.closed == 1 and random.getstate() == state
    assert threading.current_thread().name not in tracker.threads
    (run,) = tracker.runs
    assert run.id.startswith(f"{tmp_path.name}-")
    assert (run.name, run.options["technique.rank"]) == ("tickets", "8")
    (first, second, third), (result,) = tracker.values, tracker.results
    assert first[0] == 1 and first[1]["train/loss"] == 2.0 and first[1]["train/kl_"] == 0.5
    assert first[1]["train/tokens_per_second"] == 2000
    assert "reward/train/loss" not in second[1] and "reward/train/learning_rate" in second[1]
    assert third == (2, {"validation/validation_loss": 1.5})
    assert result.values["test/exact-match/tuned/value"] == 0.75
    assert [result.values[f"test/exact-match/tuned/{p}"] for p in ("low", "high", "n")] == [
        0.65, 0.85, 120,
    ]  # fmt: skip
    paired = "paired/exact-match/tuned-minus-zero-shot"
    assert [result.values[f"{paired}/{p}"] for p in ("difference", "low", "high", "n")] == [
        0.4, 0.3, 0.5, 120,
    ]  # fmt: skip
    assert result.tags["verdict"] == "FINE-TUNE" and result.artifact == tmp_path / "adapter"
    assert "FINE-TUNE" in result.markdown and "<svg" in result.svg
    assert SECRET not in repr(tracker) and "[redacted" in run.options["data.url"]


def test_a_resumed_run_continues_with_the_results_from_before(tmp_path: Path) -> None:
    """Steps that the tracker has are omitted; scores of the first process are in its results."""
    earlier = [sample_event(RunStarted), sample_event(Measured, model="zero-shot", value=0.1)]
    again = replace(sample_event(RunStarted), resumed=True)
    lines = [json.dumps(event.to_json()) + "\n" for event in [*earlier, again]]
    (tmp_path / "events.jsonl").write_text("".join(lines))
    tracker = Memory(known={"train/loss": 3})
    steps = [sample_event(StepFinished, step=n, metrics={}) for n in (3, 4, 4)]
    assert not send(tracker, tmp_path, [again, *steps, verdict_event()])
    assert [(step, "train/loss" in values) for step, values in tracker.values] == [
        (3, False),
        (4, True),
    ]
    assert tracker.results[0].values["test/sample/zero-shot/value"] == 0.1
    replayed = Memory()
    assert not send(replayed, tmp_path, [*earlier, *steps, again, *steps, verdict_event()])
    assert [step for step, _ in replayed.values] == [3, 4] and len(replayed.runs) == 1


def test_a_later_run_in_a_folder_of_the_same_name_is_another_run(tmp_path: Path) -> None:
    first = replace(sample_event(RunStarted), started="2026-01-01T10:00:00+00:00")
    again = replace(first, started="2026-01-01T11:00:00+00:00", resumed=True)
    other = replace(first, started="2026-01-02T10:00:00+00:00")
    (tmp_path / "events.jsonl").write_text(json.dumps(first.to_json()) + "\n")
    ids = []
    for event in (first, again, other):
        tracker = Memory()
        assert not send(tracker, tmp_path, [event])
        ids.append(tracker.runs[0].id)
    assert ids[0] == ids[1] != ids[2]


def test_results_are_recorded_once(tmp_path: Path) -> None:
    """A stopped run has the scores of the baselines; its end adds the others."""
    zero_shot, tuned = (sample_event(Measured, model=model) for model in ("zero-shot", "tuned"))
    tracker = Memory(known={"test/sample/zero-shot/value": 0})
    stopped = sample_event(RunFinished, status="stopped")
    events = [sample_event(RunStarted), zero_shot, stopped, tuned, verdict_event()]
    assert not send(tracker, tmp_path, events)
    first, last = (
        {name.rpartition("/")[0].removeprefix("test/sample/") for name in result.values}
        for result in tracker.results
    )
    assert "test/sample/zero-shot/value" not in tracker.results[0].values
    assert "zero-shot" in first and "zero-shot" not in last and "tuned" in last


class Full(Memory):
    """Its disk is full."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        super().log(values, step)
        raise OSError(errno.ENOSPC, f"No space left, token={SECRET}")


class Absent(Memory):
    """Its service cannot be reached."""

    def start(self, run: TrackedRun) -> Mapping[str, int]:
        raise RuntimeError("refused")


class Exiting(Memory):
    """Its library ends the process."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        raise SystemExit(3)


class Hanging(Memory):
    """Never returns."""

    def start(self, run: TrackedRun) -> Mapping[str, int]:
        time.sleep(1e6)
        return {}


def test_a_tracker_that_fails_gets_no_more_calls(tmp_path: Path) -> None:
    full = Full()
    problems = send(full, tmp_path, sample_run(steps=50))
    assert len(problems) <= 3 and len(full.values) == 3 and not full.results and full.closed == 1
    assert "No space left" in problems[0] and SECRET not in str(problems)
    absent = Absent()
    (problem,) = send(absent, tmp_path, sample_run())
    assert "RuntimeError: refused" in problem and not absent.values and absent.closed == 1


def test_a_tracker_that_exits_is_named(tmp_path: Path) -> None:
    tracker = Exiting()
    problems = send(tracker, tmp_path, sample_run(steps=2))
    assert "SystemExit: 3" in problems[0] and tracker.closed == 1


def test_the_results_are_sent_even_if_steps_are_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "MAX_WAITING", 0)
    tracker = Memory()
    options = TrackerOptions(wait=0.5)
    started = sample_event(RunStarted)
    with (
        pytest.raises(EnvironmentProblem, match="records are missing"),
        TrackerReporter(tracker, options, RunFolder(tmp_path)) as reporter,
    ):
        for event in (started, sample_event(StepFinished, metrics={}), verdict_event()):
            reporter.report(event)
    assert tracker.results and not tracker.values


def test_a_tracker_that_hangs_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "MAX_WAITING", 20)
    started = time.perf_counter()
    (problem,) = send(Hanging(), tmp_path, sample_run(steps=100))
    assert time.perf_counter() - started < 3
    assert "does not respond; gave up after 0.5 s" in problem
    assert "records are missing" in problem and "--to REPORTER" in problem


PLUGIN = """
from test_tracking import Absent, Full, Hanging, Memory
from tunesmith.hookspecs import hookimpl
from tunesmith.offers import ReporterOffer
from tunesmith_evidence.tracking import TrackerOptions, TrackerReporter

def offer(tracker):
    return ReporterOffer(
        name=tracker.__name__.lower(), summary="a fault", config=TrackerOptions,
        build=lambda options, folder: TrackerReporter(tracker(), options, folder),
    )

@hookimpl
def tunesmith_reporters():
    return [offer(tracker) for tracker in (Absent, Full, Hanging, Memory)]
"""


@pytest.mark.long
def test_no_fault_of_a_tracker_changes_a_run(
    ngram_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The losses are the same with each faulty tracker, and the run succeeds."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    plugin = tmp_path / "faulty.py"
    plugin.write_text(PLUGIN)
    rows = [{"prompt": f"question {n}", "completion": f"answer {n % 7}"} for n in range(60)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    losses, warnings = [], {}
    for name in ("memory", "absent", "full", "hanging"):
        tables = {
            "model": {"base": str(ngram_model)},
            "data": {"use": "jsonl", "train": str(tmp_path / "rows.jsonl")},
            "technique": {"use": "ngram", "epochs": 1},
            "baselines": {"use": []},
            "run": {"side_effects": False},
            "plugins": {"files": [str(plugin), ngram.__file__]},
            "reporters": [{"use": name, "wait": 0.5}],
        }
        run = tunesmith.run(tables, out=tmp_path / name)
        assert run.report.status == "ok"
        losses.append([step.loss for step in run.report.steps_of("")])
        warnings[name] = [
            f.message for f in run.report.findings if f'reporter "{name}' in f.message
        ]
    assert losses[0] and all(loss == losses[0] for loss in losses)
    assert not warnings["memory"] and "refused" in warnings["absent"][0]
    assert "No space left" in warnings["full"][0]
    assert "does not respond" in warnings["hanging"][0]

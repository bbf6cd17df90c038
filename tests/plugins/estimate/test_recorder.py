"""The ``calibration`` reporter records the end of a training, from the log of its run."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tunesmith.events import (
    Event,
    Forecast,
    PartEnded,
    RunFinished,
    RunStarted,
    StepFinished,
    TrainingFinished,
    TrainingStarted,
)
from tunesmith.storage import EventLog, RunFolder
from tunesmith.testing import sample_event
from tunesmith_plugins.estimate.recorder import CalibrationRecorder
from tunesmith_torch.runtime import machine

FORECAST = Forecast(
    technique="x", method="traced", device="gpu", device_type="cuda", available=10,
    memory={"low": 1, "expected": 2, "high": 3}, phase="train", uncalibrated_peak=2,
    untracked_bytes=5, calibration_runs=0, seconds=[], flops=7.0, steps=2, tokens=1,
)  # fmt: skip


def step(number: int) -> StepFinished:
    return StepFinished(
        step=number, steps=2, loss=1.0, learning_rate=0.1, gradient_norm=1.0, rows=1, tokens=1,
        trained_tokens=1, seconds=0.5, memory_bytes=100,
    )  # fmt: skip


def finished(stage: str = "") -> TrainingFinished:
    return TrainingFinished(
        stage=stage, technique="x", steps=2, tokens=2, trained_tokens=2, seconds=0.5,
        peak_memory_bytes=90, artifact="a", format="adapter",
    )  # fmt: skip


def started() -> TrainingStarted:
    return TrainingStarted(
        technique="x", steps=2, epochs=1.0, rows=2, tokens=2, trained_tokens=2,
        trainable_parameters=1, parameters=1, device="x", precision="x",
    )  # fmt: skip


def record(folder: Path, *events: Event) -> list[dict[str, Any]]:
    """Report events of a run that are also in its log; return the entries stored at its end."""
    (folder / "run").mkdir()
    run = RunFolder(folder / "run")
    with EventLog(run.events) as log, CalibrationRecorder(run) as recorder:
        for event in (*events, sample_event(RunFinished)):
            log.append(event.to_json())
            recorder.report(event)
    stored = folder / "state" / "tunesmith" / "calibration.jsonl"
    return [json.loads(line) for line in stored.read_text().splitlines()] if stored.exists() else []


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("TUNESMITH_CALIBRATION", raising=False)


def test_the_end_of_a_training_is_recorded_once_with_all_its_steps(tmp_path: Path) -> None:
    (entry,) = record(
        tmp_path, FORECAST, step(1), finished("reward"), step(2), finished(), finished("later")
    )
    assert (entry["peak"], entry["expected"], entry["seconds"]) == (105, 2, 1.0)


@pytest.mark.parametrize(("resumed", "parts"), [(False, {"baselines": [4.0, 12.0]}), (True, {})])
def test_the_time_of_each_part_is_recorded_unless_the_run_was_resumed(
    tmp_path: Path, resumed: bool, parts: dict[str, list[float]]
) -> None:
    forecast = replace(FORECAST, uncalibrated_parts={"baselines": 4.0, "evaluation": 3.0})
    start = sample_event(RunStarted, resumed=resumed)
    ended = PartEnded(part="baselines", seconds=12.0)
    (entry,) = record(tmp_path, start, forecast, ended, step(1), finished())
    assert entry["parts"] == parts


@pytest.mark.parametrize("events", [(finished(),), (FORECAST, finished("reward")), (FORECAST,)])
def test_nothing_is_recorded_without_a_forecast_or_an_end(
    tmp_path: Path, events: tuple[Event, ...]
) -> None:
    assert record(tmp_path, *events) == []


def test_calibration_can_be_turned_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_CALIBRATION", "0")
    assert record(tmp_path, FORECAST, step(1), finished()) == []


@pytest.mark.parametrize(("before", "count"), [(0, 1), (99, 0)])
def test_a_peak_on_a_cpu_counts_only_if_the_training_raised_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int, count: int
) -> None:
    monkeypatch.setattr(machine, "peak_resident_memory", lambda: before)
    values = {**FORECAST.to_json(), "device_type": "cpu", "untracked_bytes": 0}
    values.pop("event")
    assert len(record(tmp_path, Forecast(**values), step(1), finished())) == count


def test_an_earlier_and_larger_run_in_the_process_hides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peaks = [1000]  # bytes, of the earlier run
    monkeypatch.setattr(machine, "peak_resident_memory", lambda: peaks[-1])
    monkeypatch.setattr(machine, "reset_peak_resident_memory", lambda: peaks.append(10))
    values = {**FORECAST.to_json(), "device_type": "cpu", "untracked_bytes": 0}
    values.pop("event")
    assert len(record(tmp_path, Forecast(**values), step(1), finished())) == 1


@pytest.mark.parametrize(("device", "share"), [("cpu", 0.75), ("cuda", None)])
def test_the_share_of_the_processor_that_a_training_got_is_recorded(
    device: str, share: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clocks = {"perf_counter": [100.0, 110.0], "process_time": [5.0, 20.0]}  # seconds
    for name, times in clocks.items():
        monkeypatch.setattr(time, name, iter(times).__next__)
    monkeypatch.setattr(machine, "peak_resident_memory", lambda: 0)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(get_num_threads=lambda: 2))
    values = {**FORECAST.to_json(), "device_type": device}
    values.pop("event")
    (entry,) = record(tmp_path, Forecast(**values), started(), step(1), finished())
    assert entry["cpu_share"] == share

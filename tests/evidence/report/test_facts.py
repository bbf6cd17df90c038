"""Facts of a training, and predictions beside what was measured."""

from __future__ import annotations

from pathlib import Path

from tunesmith.events import Forecast, PartEnded, TrainingStarted
from tunesmith.execution.report import build_report
from tunesmith.testing import sample_event, sample_run
from tunesmith_evidence.report.facts import (
    describe_stage,
    format_reproduction,
    list_predictions,
)

GIB = 1024**3


def test_memory_and_time_beside_their_predictions() -> None:
    memory = {"low": GIB, "expected": 2 * GIB, "high": 3 * GIB}
    forecast = sample_event(Forecast, memory=memory, seconds=[2.0, 9.0], parts={})
    events = [*sample_run(), forecast]
    found = list_predictions(build_report(events))
    rows = [(row.quantity, row.predicted, row.measured, row.judgment) for row in found]
    assert rows == [
        ("peak memory", "1.0 GiB to 3.0 GiB", "2.0 GiB", "within"),
        ("training time", "2.0 s to 9.0 s", "1.0 s", "below"),
    ]
    parts = {"baselines": [10.0, 20.0], "training": [1.0, 50.0]}
    training = PartEnded(part="training", seconds=5.0)
    forecast = sample_event(Forecast, memory=memory, parts=parts)
    times = list_predictions(build_report([*sample_run(), forecast, training, training]))[1:]
    assert [(row.quantity, row.predicted, row.measured, row.judgment) for row in times] == [
        ("baselines time", "10 s to 20 s", "30 s", "above"),
        ("training time", "1.0 s to 50 s", "10 s", "within"),
        ("total time", "11 s to 1 min 10 s", "40 s", "within"),
    ]
    forecast = sample_event(Forecast, memory=memory, parts={})
    before = list_predictions(build_report([forecast]))
    assert [(row.measured, row.judgment) for row in before] == [("", ""), ("", "")]
    assert list_predictions(build_report([])) == []


def test_facts_of_a_stage() -> None:
    report = build_report([*sample_run(steps=3)])
    facts = describe_stage(report, "")
    assert facts["steps"] == "3 of 3" and facts["rows"] == "240 training rows, 1 epoch"
    assert facts["learning rate"] == "0.001 (peak)" and facts["speed"] == "2,000 tokens/s"
    assert facts["trainable parameters"] == "5 of 50 (10 %)"
    started = build_report([sample_event(TrainingStarted, rows=292, epochs=2.0)])
    facts = describe_stage(started, "")
    assert facts["rows"] == "292 training rows, 2 epochs" and "time" not in facts
    assert facts["steps"] == "0 of 2" and "speed" not in facts


def test_the_learning_rates_that_were_tried() -> None:
    pilots = [
        {"rate": 2e-4, "validation_loss": 2.5, "score": 0.25},
        {"rate": 2e-3, "validation_loss": None, "score": None},
    ]
    details = {"rate_pilots": {"by": "exact-match", "pilots": pilots}}
    report = build_report([sample_event(TrainingStarted, details=details)])
    tried = describe_stage(report, "")["learning rates tried"]
    assert tried == "2e-4: exact-match 0.250, loss 2.500; 0.002: diverged"


def test_the_command_quotes_the_folder() -> None:
    assert format_reproduction(Path("/runs/my run")) == "tunesmith run '/runs/my run/run.toml'"

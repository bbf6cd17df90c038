"""Facts of a training, and predictions beside what was measured."""

from __future__ import annotations

from pathlib import Path

from tunesmith.events import Forecast, TrainingStarted
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
    events = [*sample_run(), sample_event(Forecast, memory=memory, seconds=[2.0, 9.0])]
    found = list_predictions(build_report(events))
    rows = [(row.quantity, row.predicted, row.measured, row.judgment) for row in found]
    assert rows == [
        ("peak memory", "1.0 GiB to 3.0 GiB", "2.0 GiB", "within"),
        ("training time", "2.0 s to 9.0 s", "1.0 s", "below"),
    ]
    before = list_predictions(build_report([sample_event(Forecast, memory=memory)]))
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


def test_the_command_quotes_the_folder() -> None:
    assert format_reproduction(Path("/runs/my run")) == "tunesmith run '/runs/my run/run.toml'"

"""The report is built from events, also after stops, failures and resumes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tunesmith.events import (
    DataLoaded,
    Event,
    FindingReported,
    Measured,
    RunFinished,
    RunStarted,
    StepFinished,
    TrainingFinished,
    TrainingStarted,
    from_json,
)
from tunesmith.execution.report import build_report
from tunesmith.testing import sample_event, sample_run
from tunesmith.testing.reporters import core_event_types


def started(*, resumed: bool = False) -> RunStarted:
    return sample_event(RunStarted, started="t2" if resumed else "t1", resumed=resumed)


def training(stage: str = "") -> TrainingStarted:
    return sample_event(TrainingStarted, stage=stage, steps=4)


def step(number: int, loss: float = 1.0, stage: str = "", **more: Any) -> StepFinished:
    values = {"steps": 4, "tokens": 20, "memory_bytes": 100 * number, "metrics": {}, **more}
    return sample_event(StepFinished, stage=stage, step=number, loss=loss, **values)


def finished(status: str = "ok", code: int = 0) -> RunFinished:
    error = "" if status == "ok" else "it broke"
    hint = "do that" if error else ""
    return sample_event(RunFinished, status=status, exit_code=code, error=error, hint=hint)


def test_a_report_without_events() -> None:
    report = build_report([])
    assert report.status == "unfinished"
    assert report.to_json()["training"] == {} and report.to_json()["evaluations"] == []
    json.dumps(report.to_json())


def test_every_event_is_read_back_from_its_line() -> None:
    assert {type(event) for event in sample_run()} == set(core_event_types())
    for event in sample_run():
        assert from_json(json.loads(json.dumps(event.to_json()))) == event


def test_a_report_from_lines_equals_the_report_from_events() -> None:
    lines = [json.loads(json.dumps(event.to_json())) for event in sample_run()]
    again = build_report(event for event in map(from_json, lines) if event is not None)
    assert again.to_json() == build_report(sample_run()).to_json()


def test_unknown_events_and_keys_are_ignored() -> None:
    assert from_json({"event": "something-new"}) is None
    assert from_json({}) is None
    line = {**FindingReported(level="info", source="s", message="m").to_json(), "color": "red"}
    assert from_json(line) == FindingReported(level="info", source="s", message="m")


def test_metrics_are_summed_over_steps() -> None:
    report = build_report(
        [started(), training(), *(step(n, 5.0 - n) for n in (1, 2, 3, 4))]
    ).to_json()
    values = report["training"]
    assert values["losses"] == [4.0, 3.0, 2.0, 1.0]
    assert (values["tokens"], values["trained_tokens"], values["seconds"]) == (80, 40, 2.0)
    assert values["tokens_per_second"] == 40.0
    assert values["peak_memory_bytes"] == 400
    assert values["steps"] == values["planned_steps"] == 4


def test_a_repeated_step_counts_once() -> None:
    events = [started(), training(), step(1), step(2, 9.0), started(resumed=True), training()]
    values = build_report([*events, step(2, 2.0), step(3, 3.0)]).to_json()["training"]
    assert values["losses"] == [1.0, 2.0, 3.0]
    assert values["tokens"] == 60


def test_a_resumed_run_keeps_its_start_and_drops_its_end() -> None:
    report = build_report([started(), finished("failed", 5), started(resumed=True)])
    assert report.status == "unfinished"
    assert report.to_json()["run"]["started"] == "t1"
    assert report.to_json()["run"]["error"] == ""


@pytest.mark.parametrize(("status", "code"), [("ok", 0), ("failed", 5), ("stopped", 143)])
def test_status_and_exit_code_of_the_end(status: str, code: int) -> None:
    run = build_report([started(), finished(status, code)]).to_json()["run"]
    assert (run["status"], run["exit_code"]) == (status, code)
    assert run["error"] == ("" if status == "ok" else "it broke")
    assert run["hint"] == ("" if status == "ok" else "do that")


def test_a_repeated_evaluation_replaces_the_first() -> None:
    def measured(value: float, model: str) -> Measured:
        return sample_event(Measured, model=model, value=value)

    events = [measured(0.1, "zero-shot"), measured(0.2, "tuned"), measured(0.3, "zero-shot")]
    found = [(e["model"], e["value"]) for e in build_report(events).to_json()["evaluations"]]
    assert found == [("zero-shot", 0.3), ("tuned", 0.2)]


def test_the_same_finding_is_listed_once() -> None:
    finding = FindingReported(level="warning", source="s", message="m")
    assert len(build_report([finding, finding]).to_json()["findings"]) == 1


def test_stages_have_their_own_metrics() -> None:
    events: list[Event] = [started(), training("reward"), step(1, 3.0, "reward")]
    events += [
        training("policy"),
        step(1, 7.0, "policy", metrics={"kl": 0.5}),
        step(2, 8.0, "policy"),
    ]
    report = build_report(events).to_json()
    assert report["stages"]["reward"]["losses"] == [3.0]
    assert report["stages"]["policy"]["metrics"] == {"kl": [0.5, None]}


def test_the_data_of_a_report() -> None:
    data = DataLoaded(description="d", train=8, test=2, skipped={"c": 1}, fingerprint="f")
    assert build_report([data]).to_json()["data"] == {
        "description": "d", "train": 8, "validation": 0, "test": 2, "skipped": {"c": 1},
        "skipped_examples": [], "fingerprint": "f",
    }  # fmt: skip


def test_the_artifact_of_the_finished_training() -> None:
    trained = sample_event(TrainingFinished, artifact="adapter")
    assert build_report([training()]).to_json()["training"]["artifact"] is None
    assert build_report([training(), trained]).to_json()["training"]["artifact"] == "adapter"

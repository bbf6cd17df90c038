"""The report: a fold, whatever the order of trouble."""

from __future__ import annotations

import json

import pytest

from tunesmith.events import (
    EVENT_TYPES,
    DataRead,
    Event,
    Measured,
    Noticed,
    RunFinished,
    RunStarted,
    Stepped,
    Trained,
    TrainingStarted,
    from_json,
)
from tunesmith.execution.report import fold
from tunesmith.testing.reporters import a_run


def started(*, resumed: bool = False) -> RunStarted:
    return RunStarted(
        run="r", name="n", started="t2" if resumed else "t1", plan={"run": {}}, versions={},
        plugins=[], resumed=resumed,
    )  # fmt: skip


def training(stage: str = "", steps: int = 4) -> TrainingStarted:
    return TrainingStarted(
        stage=stage, technique="x", steps=steps, epochs=1.0, rows=8, tokens=80, trained_tokens=40,
        trainable_parameters=1, parameters=2, device="cpu", precision="fp32",
    )  # fmt: skip


def step(number: int, loss: float = 1.0, stage: str = "", **more: object) -> Stepped:
    figures: dict[str, object] = dict(
        stage=stage, step=number, steps=4, loss=loss, learning_rate=0.1, gradient_norm=1.0,
        rows=2, tokens=20, trained_tokens=10, seconds=0.5, memory_bytes=100 * number,
    )  # fmt: skip
    return Stepped(**{**figures, **more})  # type: ignore[arg-type]


def finished(status: str = "ok", code: int = 0) -> RunFinished:
    return RunFinished(
        status=status, exit_code=code, finished="t9", seconds=1.0,  # type: ignore[arg-type]
        error="" if status == "ok" else "it broke",
    )  # fmt: skip


def test_nothing_is_a_report_too() -> None:
    report = fold([])
    assert report.status == "unfinished"
    assert report.to_json()["training"] == {} and report.to_json()["evaluations"] == []
    json.dumps(report.to_json())


def test_every_event_survives_its_line() -> None:
    assert {event.kind for event in a_run()} == set(EVENT_TYPES)
    for event in a_run():
        assert from_json(json.loads(json.dumps(event.to_json()))) == event


def test_a_report_from_lines_is_the_report_from_events() -> None:
    lines = [json.loads(json.dumps(event.to_json())) for event in a_run()]
    again = fold(event for event in map(from_json, lines) if event is not None)
    assert again.to_json() == fold(a_run()).to_json()


def test_an_event_of_the_future_is_skipped_and_a_new_key_ignored() -> None:
    assert from_json({"event": "something-new"}) is None
    assert from_json({}) is None
    line = {**Noticed(level="info", source="s", message="m").to_json(), "colour": "red"}
    assert from_json(line) == Noticed(level="info", source="s", message="m")


def test_figures_are_summed_over_steps() -> None:
    report = fold([started(), training(), *(step(n, 5.0 - n) for n in (1, 2, 3, 4))]).to_json()
    figures = report["training"]
    assert figures["losses"] == [4.0, 3.0, 2.0, 1.0]
    assert (figures["tokens"], figures["trained_tokens"], figures["seconds"]) == (80, 40, 2.0)
    assert figures["tokens_per_second"] == 40.0
    assert figures["peak_memory_bytes"] == 400
    assert figures["steps"] == figures["planned_steps"] == 4


def test_a_step_that_was_taken_again_counts_once() -> None:
    events = [started(), training(), step(1), step(2, 9.0), started(resumed=True), training()]
    figures = fold([*events, step(2, 2.0), step(3, 3.0)]).to_json()["training"]
    assert figures["losses"] == [1.0, 2.0, 3.0]
    assert figures["tokens"] == 60


def test_a_resumed_run_keeps_its_start_and_forgets_its_end() -> None:
    report = fold([started(), finished("failed", 5), started(resumed=True)])
    assert report.status == "unfinished"
    assert report.to_json()["run"]["started"] == "t1"
    assert report.to_json()["run"]["error"] == ""


@pytest.mark.parametrize(("status", "code"), [("ok", 0), ("failed", 5), ("stopped", 143)])
def test_how_it_ended(status: str, code: int) -> None:
    run = fold([started(), finished(status, code)]).to_json()["run"]
    assert (run["status"], run["exit_code"]) == (status, code)
    assert run["error"] == ("" if status == "ok" else "it broke")


def test_a_measurement_made_again_replaces_the_first() -> None:
    def measured(value: float, model: str) -> Measured:
        return Measured(
            model=model, evaluator="e", metric="m", value=value, low=0.0, high=1.0, n=3,
            higher_is_better=True, seconds=1.0, records="r.jsonl",
        )  # fmt: skip

    events = [measured(0.1, "base"), measured(0.2, "tuned"), measured(0.3, "base")]
    found = [(e["model"], e["value"]) for e in fold(events).to_json()["evaluations"]]
    assert found == [("base", 0.3), ("tuned", 0.2)]


def test_the_same_notice_is_listed_once() -> None:
    notice = Noticed(level="warning", source="s", message="m")
    assert len(fold([notice, notice]).to_json()["notices"]) == 1


def test_stages_have_figures_of_their_own() -> None:
    events: list[Event] = [started(), training("reward"), step(1, 3.0, "reward")]
    events += [
        training("policy"),
        step(1, 7.0, "policy", extras={"kl": 0.5}),
        step(2, 8.0, "policy"),
    ]
    report = fold(events).to_json()
    assert report["stages"]["reward"]["losses"] == [3.0]
    assert report["stages"]["policy"]["extras"] == {"kl": [0.5, None]}


def test_what_the_data_was() -> None:
    data = DataRead(description="d", train=8, heldout=2, left_out={"c": 1}, fingerprint="f")
    assert fold([data]).to_json()["data"] == {
        "description": "d", "train": 8, "holdout": 2, "left_out": {"c": 1},
        "left_out_examples": [], "fingerprint": "f",
    }  # fmt: skip


def test_the_artifact_is_the_last_word_on_training() -> None:
    trained = Trained(
        technique="x", steps=1, tokens=1, trained_tokens=1, seconds=1.0, peak_memory_bytes=0,
        artifact="adapter", format="adapter",
    )  # fmt: skip
    assert fold([training()]).to_json()["training"]["artifact"] is None
    assert fold([training(), trained]).to_json()["training"]["artifact"] == "adapter"

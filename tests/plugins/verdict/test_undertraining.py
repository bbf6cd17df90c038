"""No word against tuning while the tuned model is underfitted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from verdict_cases import Case, right

from tunesmith.events import Event, StepFinished, TrainingFinished
from tunesmith.testing import sample_event
from tunesmith_plugins.verdict.undertraining import describe_undertraining


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def write_log(folder: Path, *, falls: bool) -> None:
    """Write the steps of a training whose loss falls up to the end, or has leveled off."""
    losses = [4 - n / 15 if falls else 1 + 3 * 0.5**n for n in range(50)]
    events: list[Event] = [
        sample_event(StepFinished, stage="", step=n, loss=loss, learning_rate=2e-4, metrics={})
        for n, loss in enumerate(losses, 1)
    ]
    events.append(sample_event(TrainingFinished, stage=""))
    lines = (json.dumps({"time": 0.0, **event.to_json()}) + "\n" for event in events)
    (folder / "events.jsonl").write_text("".join(lines))


def test_what_is_undertrained(tmp_path: Path) -> None:
    assert describe_undertraining(tmp_path) is None, "no log"
    write_log(tmp_path, falls=False)
    assert describe_undertraining(tmp_path) is None
    write_log(tmp_path, falls=True)
    assert "still fell by" in str(describe_undertraining(tmp_path))


@pytest.mark.parametrize("baseline", ["linear", "zero-shot"])
def test_a_baseline_is_not_enough_beside_an_underfitted_model(case: Case, baseline: str) -> None:
    case.baseline(baseline, right(0.9, 400))
    case.model("tuned", right(0.6, 400))
    write_log(case.folder, falls=False)
    assert case.judge()["word"] in ("SMALL CLASSIFIER", "PROMPT")
    write_log(case.folder, falls=True)
    verdict = case.judge()
    assert (verdict["word"], verdict["baseline"]) == ("NOT ENOUGH EVIDENCE", baseline)
    assert verdict["sentence"].startswith(
        "not enough evidence: the tuned model is underfitted: the training loss still fell by "
    )
    assert "higher learning rate (6e-4 instead of 2e-4); so far, " in verdict["sentence"]
    assert f"compared with {baseline}: right 0.900 -> 0.600 on 400" in verdict["sentence"]
    assert verdict["would_change"] == "a tuned model that is not underfitted"


def test_a_baseline_may_be_enough_for_any_model(case: Case) -> None:
    """Two errors in 1,000 rows: less than the margin is left for a model without errors."""
    case.baseline("linear", right(0.998, 1_000))
    case.model("tuned", right(0.6, 1_000))
    write_log(case.folder, falls=True)
    verdict = case.judge()
    assert verdict["word"] == "SMALL CLASSIFIER"
    assert verdict["sentence"].endswith(
        "; the tuned model is underfitted, but even a perfect model would not be better by the "
        "margin"
    )


def test_a_metric_without_a_best_value_leaves_room(tmp_path: Path) -> None:
    case = Case(tmp_path, unit="points", bounds=(0.0, None))
    case.baseline("linear", [5.0 + row % 3 for row in range(100)])
    case.model("tuned", [2.0 + row % 2 for row in range(100)])
    assert case.judge()["word"] == "SMALL CLASSIFIER"
    write_log(tmp_path, falls=True)
    assert case.judge()["word"] == "NOT ENOUGH EVIDENCE"


def test_nothing_works_yet_names_the_cause(case: Case) -> None:
    case.baseline("linear", right(0.3))
    case.model("tuned", right(0.0))
    before = case.judge(gate={"right": 0.8})
    write_log(case.folder, falls=True)
    verdict = case.judge(gate={"right": 0.8})
    assert verdict["word"] == before["word"] == "NOTHING WORKS YET"
    assert verdict["sentence"].startswith(
        f"{before['sentence']}; the tuned model is underfitted: the training loss still fell by"
    )
    assert verdict["would_change"] == (
        f"a tuned model that is not underfitted, or {before['would_change']}"
    )


def test_a_word_for_tuning_stays(case: Case) -> None:
    case.baseline("linear", right(0.5))
    case.model("tuned", right(0.9))
    write_log(case.folder, falls=True)
    assert case.judge()["word"] == "FINE-TUNE"

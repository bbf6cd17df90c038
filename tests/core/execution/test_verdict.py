"""The verdict compares with the best baseline, record by record."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from tunesmith.errors import GateError
from tunesmith.events import Measured
from tunesmith.execution.verdict import check_gate, compute_verdict
from tunesmith.options import GateOptions


def measured(
    folder: Path,
    model: str,
    values: Sequence[float],
    *,
    higher: bool = True,
    metric: str = "m",
    evaluator: str = "e",
) -> Measured:
    path = f"{model}.{evaluator}.{metric}.jsonl"
    lines = [json.dumps({metric: {"value": v, "weight": 1.0}}) + "\n" for v in values]
    (folder / path).write_text("".join(lines), encoding="utf-8")
    mean = sum(values) / len(values)
    return Measured(
        model=model, evaluator=evaluator, metric=metric, value=mean, low=mean, high=mean,
        n=len(values), higher_is_better=higher, seconds=0.0, records=path,
    )  # fmt: skip


def test_better_than_the_best_baseline(tmp_path: Path) -> None:
    events = [
        measured(tmp_path, "base", [0.0] * 100),
        measured(tmp_path, "few-shot", [1.0] * 30 + [0.0] * 70),
        measured(tmp_path, "tuned", [1.0] * 90 + [0.0] * 10),
    ]
    verdict = compute_verdict(events, "m", tmp_path)
    assert (verdict["baseline_model"], verdict["outcome"]) == ("few-shot", "better")
    assert verdict["difference"] == pytest.approx(0.6)
    assert verdict["low"] > 0
    assert set(verdict["comparisons"]) == {"base", "few-shot"}
    assert verdict["sentence"].startswith(
        "fine-tuning was worth it: better than few-shot prompting"
    )


def test_worse_is_stated(tmp_path: Path) -> None:
    events = [
        measured(tmp_path, "base", [1.0] * 90 + [0.0] * 10),
        measured(tmp_path, "tuned", [1.0] * 20 + [0.0] * 80),
    ]
    verdict = compute_verdict(events, "m", tmp_path)
    assert verdict["outcome"] == "worse"
    assert verdict["sentence"].startswith("fine-tuning was not worth it: worse than the base model")


def test_unclear_states_the_detectable_difference(tmp_path: Path) -> None:
    events = [
        measured(tmp_path, "base", [1.0, 0.0] * 10),
        measured(tmp_path, "tuned", [0.0, 1.0] * 10),
    ]
    verdict = compute_verdict(events, "m", tmp_path)
    assert verdict["outcome"] == "unclear"
    assert "no clear difference" in verdict["sentence"]
    assert f"{verdict['detectable']:.3f} or more" in verdict["sentence"]


def test_where_lower_is_better(tmp_path: Path) -> None:
    events = [
        measured(tmp_path, "base", [2.0 + n / 100 for n in range(50)], higher=False),
        measured(tmp_path, "few-shot", [1.5 + n / 100 for n in range(50)], higher=False),
        measured(tmp_path, "tuned", [1.0 + n / 90 for n in range(50)], higher=False),
    ]
    verdict = compute_verdict(events, "m", tmp_path)
    assert (verdict["baseline_model"], verdict["outcome"]) == ("few-shot", "better")
    assert verdict["difference"] < 0


def test_paired_differences_decide_not_overlapping_intervals(tmp_path: Path) -> None:
    """Records differ far more from each other than the models do on any of them."""
    hard = [float(n % 10) for n in range(60)]
    events = [
        measured(tmp_path, "base", hard, higher=False),
        measured(
            tmp_path, "tuned", [v - 0.1 - n % 3 / 50 for n, v in enumerate(hard)], higher=False
        ),
    ]
    assert compute_verdict(events, "m", tmp_path)["outcome"] == "better"


def test_without_a_baseline_or_without_the_tuned_model(tmp_path: Path) -> None:
    tuned = measured(tmp_path, "tuned", [1.0, 0.0])
    verdict = compute_verdict([tuned], "m", tmp_path)
    assert verdict["outcome"] == "unclear" and "no baseline" in verdict["sentence"]
    assert compute_verdict([measured(tmp_path, "base", [1.0])], "m", tmp_path) == {}
    assert compute_verdict([], "m", tmp_path) == {}


def test_a_metric_of_two_evaluators_is_compared_within_one(tmp_path: Path) -> None:
    scores = {"strict": (0.2, 0.8), "lenient": (0.9, 0.1)}
    events = [
        measured(tmp_path, model, [share] * 50, evaluator=evaluator)
        for index, model in enumerate(("base", "tuned"))
        for evaluator, share in ((name, pair[index]) for name, pair in scores.items())
    ]
    strict = compute_verdict(events, "m", tmp_path)
    assert (strict["evaluator"], strict["outcome"]) == ("strict", "better")
    lenient = compute_verdict(events, "m", tmp_path, evaluator="lenient")
    assert (lenient["evaluator"], lenient["outcome"]) == ("lenient", "worse")
    assert "lenient: m 0.900 -> 0.100" in lenient["sentence"]


def gate(folder: Path, **options: object) -> None:
    higher = measured(folder, "tuned", [1.0] * 8 + [0.0] * 2)
    lower = measured(folder, "tuned", [0.5, 0.7], higher=False, metric="loss")
    verdict = {"comparisons": {"base": {"outcome": "better"}, "few-shot": {"outcome": "unclear"}}}
    check_gate(GateOptions(**options), [higher, lower], verdict)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"must_beat": ["base"]},
        {"at_least": {"m": 0.8}},
        {"at_least": {"m": 0.1, "loss": 0.7}},
    ],
)
def test_a_gate_that_is_met(tmp_path: Path, options: dict[str, object]) -> None:
    gate(tmp_path, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"must_beat": ["few-shot"]},
            'gate.must_beat: tuned must be better than few-shot, but is "unclear"',
        ),
        ({"at_least": {"m": 0.81}}, "gate.at_least.m: must be at least 0.81, got 0.8"),
        ({"at_least": {"loss": 0.59}}, "gate.at_least.loss: must be at most 0.59, got 0.6"),
        ({"at_least": {"bleu": 0.1}}, "gate.at_least.bleu: the metric was not measured"),
    ],
)
def test_a_gate_that_is_not_met(tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(GateError) as caught:
        gate(tmp_path, **options)
    assert caught.value.message == message


def test_everything_that_was_not_met_is_named(tmp_path: Path) -> None:
    with pytest.raises(GateError) as caught:
        gate(tmp_path, must_beat=["few-shot"], at_least={"m": 0.9, "loss": 0.1})
    assert len(caught.value.message.splitlines()) == 3


def test_must_beat_fails_for_a_baseline_without_evaluation(tmp_path: Path) -> None:
    tuned = measured(tmp_path, "tuned", [1.0])
    with pytest.raises(GateError, match='better than base, but is "not measured"'):
        check_gate(GateOptions(must_beat=["base"]), [tuned], {})

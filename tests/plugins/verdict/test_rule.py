"""The verdict compares with the best baseline, record by record."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from tunesmith.events import Measured
from tunesmith_plugins.verdict.rule import compute_verdict


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
        measured(tmp_path, "zero-shot", [0.0] * 100),
        measured(tmp_path, "random-shots", [1.0] * 30 + [0.0] * 70),
        measured(tmp_path, "tuned", [1.0] * 90 + [0.0] * 10),
    ]
    verdict = compute_verdict(events, "m", tmp_path)
    assert (verdict["baseline_model"], verdict["outcome"]) == ("random-shots", "better")
    assert verdict["difference"] == pytest.approx(0.6)
    assert verdict["low"] > 0
    assert set(verdict["comparisons"]) == {"zero-shot", "random-shots"}
    assert verdict["sentence"].startswith(
        "fine-tuning was worth it: better than few-shot prompting"
    )


def test_worse_is_stated(tmp_path: Path) -> None:
    events = [
        measured(tmp_path, "zero-shot", [1.0] * 90 + [0.0] * 10),
        measured(tmp_path, "tuned", [1.0] * 20 + [0.0] * 80),
    ]
    verdict = compute_verdict(events, "m", tmp_path)
    assert verdict["outcome"] == "worse"
    assert verdict["sentence"].startswith(
        "fine-tuning was not worth it: worse than the untouched model"
    )


def test_unclear_states_the_detectable_difference(tmp_path: Path) -> None:
    events = [
        measured(tmp_path, "zero-shot", [1.0, 0.0] * 10),
        measured(tmp_path, "tuned", [0.0, 1.0] * 10),
    ]
    verdict = compute_verdict(events, "m", tmp_path)
    assert verdict["outcome"] == "unclear"
    assert "no clear difference" in verdict["sentence"]
    assert f"{verdict['detectable']:.3f} or more" in verdict["sentence"]


def test_where_lower_is_better(tmp_path: Path) -> None:
    events = [
        measured(tmp_path, "zero-shot", [2.0 + n / 100 for n in range(50)], higher=False),
        measured(tmp_path, "random-shots", [1.5 + n / 100 for n in range(50)], higher=False),
        measured(tmp_path, "tuned", [1.0 + n / 90 for n in range(50)], higher=False),
    ]
    verdict = compute_verdict(events, "m", tmp_path)
    assert (verdict["baseline_model"], verdict["outcome"]) == ("random-shots", "better")
    assert verdict["difference"] < 0


def test_paired_differences_decide_not_overlapping_intervals(tmp_path: Path) -> None:
    """Records differ far more from each other than the models do on any of them."""
    hard = [float(n % 10) for n in range(60)]
    events = [
        measured(tmp_path, "zero-shot", hard, higher=False),
        measured(
            tmp_path, "tuned", [v - 0.1 - n % 3 / 50 for n, v in enumerate(hard)], higher=False
        ),
    ]
    assert compute_verdict(events, "m", tmp_path)["outcome"] == "better"


def test_without_a_baseline_or_without_the_tuned_model(tmp_path: Path) -> None:
    tuned = measured(tmp_path, "tuned", [1.0, 0.0])
    verdict = compute_verdict([tuned], "m", tmp_path)
    assert verdict["outcome"] == "unclear" and "no baseline" in verdict["sentence"]
    assert compute_verdict([measured(tmp_path, "zero-shot", [1.0])], "m", tmp_path) == {}
    assert compute_verdict([], "m", tmp_path) == {}


def test_a_metric_of_two_evaluators_is_compared_within_one(tmp_path: Path) -> None:
    scores = {"strict": (0.2, 0.8), "lenient": (0.9, 0.1)}
    events = [
        measured(tmp_path, model, [share] * 50, evaluator=evaluator)
        for index, model in enumerate(("zero-shot", "tuned"))
        for evaluator, share in ((name, pair[index]) for name, pair in scores.items())
    ]
    strict = compute_verdict(events, "m", tmp_path)
    assert (strict["evaluator"], strict["outcome"]) == ("strict", "better")
    lenient = compute_verdict(events, "m", tmp_path, evaluator="lenient")
    assert (lenient["evaluator"], lenient["outcome"]) == ("lenient", "worse")
    assert "lenient: m 0.900 -> 0.100" in lenient["sentence"]

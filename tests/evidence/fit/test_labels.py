"""Labels of training rows that a model has not learned as well as a classifier knows new ones."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from tunesmith.events import BaselineChosen, Measured, StepFinished, TrainingFinished
from tunesmith.execution.report import TRAINING_ROWS, Report, build_report
from tunesmith.testing import sample_event
from tunesmith_evidence.fit import diagnose_fit
from tunesmith_evidence.fit.course import read_loss_history
from tunesmith_evidence.fit.labels import fano_bound, find_label_cost

NAMES = ("card", "refund", "order", "invoice")


def measure(folder: Path, model: str, share: float, labels: Sequence[str] = NAMES) -> Measured:
    """Write the answers of a model, of which a share is right."""
    path, n = f"{model}.jsonl", 80
    lines = [
        {
            "row": row,
            "expected": labels[row % len(labels)],
            "accuracy": {"value": float(row < share * n), "weight": 1.0},
        }
        for row in range(n)
    ]
    (folder / path).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return sample_event(
        Measured, model=model, evaluator="classification", metric="accuracy", value=share,
        low=share - 0.05, high=share, n=n, higher_is_better=True, unit="", records=path,
        details={"no_label": 3} if model == "tuned" else {},
    )  # fmt: skip


def report(
    folder: Path, *, nats: float, tuned: float = 0.7, linear: float = 0.95,
    labels: Sequence[str] = NAMES, measured_loss: bool = False,
) -> Report:  # fmt: skip
    """Return a run whose training answers of five tokens cost that many nats."""
    steps = [
        sample_event(
            StepFinished, stage="", step=n, loss=nats / 5, rows=8, trained_tokens=40, metrics={},
            learning_rate=1e-3,
        )
        for n in range(1, 4)
    ]  # fmt: skip
    chosen = [
        sample_event(BaselineChosen, baseline=name, solution=solution, cost=cost, skipped="")
        for name, solution, cost in (
            ("majority", "classifier", 0), ("linear", "classifier", 20), ("prompt", "prompt", 110),
        )
    ]  # fmt: skip
    shares = {"majority": 0.25, "linear": linear, "prompt": 0.97, "tuned": tuned}
    events = [
        *steps,
        sample_event(TrainingFinished, stage=""),
        *chosen,
        *(measure(folder, name, share, labels) for name, share in shares.items()),
    ]
    if measured_loss:
        (folder / "rows.jsonl").write_text(
            "".join(json.dumps({"loss": {"value": nats / 5, "weight": 5.0}}) + "\n" for _ in "ab")
        )
        events[0] = sample_event(
            Measured, model=TRAINING_ROWS, evaluator="loss", metric="loss", value=nats / 5,
            higher_is_better=False, unit="nats/token", records="rows.jsonl",
        )  # fmt: skip
    return build_report(events)


def test_the_cost_of_several_answers_is_not_that_of_a_label(tmp_path: Path) -> None:
    """The loss of a conversation is over all of its answers, and the classifier gives the last."""
    found = report(tmp_path, nats=0.6)
    course = read_loss_history(found, "")
    assert find_label_cost(tmp_path, found, course) is not None
    path = tmp_path / "linear.jsonl"
    turns = [["user", "q"], ["assistant", "card"], ["user", "and this?"]]
    lines = [json.loads(line) | {"prompt": turns} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert find_label_cost(tmp_path, found, course) is None


@pytest.mark.parametrize("measured_loss", [False, True])
@pytest.mark.parametrize(("nats", "is_above"), [(0.6, True), (0.2, False)])
def test_the_cost_of_a_label(
    tmp_path: Path, nats: float, is_above: bool, measured_loss: bool
) -> None:
    """The classifier is right in 90 % at least, so 0.44 nats are enough for four labels."""
    found = report(tmp_path, nats=nats, measured_loss=measured_loss)
    cost = find_label_cost(tmp_path, found, read_loss_history(found, ""))
    assert cost is not None and cost.classifier == "linear"
    assert cost.nats == pytest.approx(nats)
    assert cost.bound == pytest.approx(0.325 + 0.1 * math.log(3), abs=1e-3)
    fit = diagnose_fit(tmp_path, found)
    assert fit is not None and (fit.state == "underfitted") == is_above
    if is_above:
        assert "costs the tuned model 0.600 nats; a model as good as linear" in fit.sentence
        assert "3 of 80 answers are not one of the labels; train for more epochs" in fit.sentence


def test_what_shows_nothing(tmp_path: Path) -> None:
    """No better classifier, or answers that are not labels."""
    objects = [f"answer {n}" for n in range(80)]
    for found in (
        report(tmp_path, nats=9, tuned=0.96),
        report(tmp_path, nats=9, labels=objects),
        build_report([]),
    ):
        assert find_label_cost(tmp_path, found, read_loss_history(found, "")) is None


def test_the_bound() -> None:
    """It grows up to the entropy of a model that knows nothing."""
    assert fano_bound(0.0, 8) == 0.0
    assert fano_bound(0.5, 2) == pytest.approx(math.log(2))
    for labels in (2, 3, 77):
        bounds = [fano_bound(error / 100, labels) for error in range(101)]
        assert bounds == sorted(bounds)
        assert bounds[-1] == pytest.approx(math.log(labels))

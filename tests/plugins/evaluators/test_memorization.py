"""Memorization: rows that only the tuned model reproduces, with test rows as control."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import tunesmith
from tunesmith.contracts import RunContext
from tunesmith.errors import UsageError
from tunesmith.records import Completion, Record
from tunesmith.testing.fakes import FakeTextModel
from tunesmith_cli.app import app
from tunesmith_plugins.evaluators.memorization import MEMORIZATION
from tunesmith_torch.testing.tiny_model import save_tiny_model


def make_rows(name: str, count: int) -> list[Record]:
    return [
        Completion(source=f"{name}:{n}", prompt=f"{name}{n}", completion=f"{name} {n} is right")
        for n in range(count)
    ]


TRAIN, TEST = make_rows("t", 60), make_rows("h", 60)


def knowing(rows: Sequence[Any]) -> FakeTextModel:
    return FakeTextModel(answers={row.prompt: row.completion for row in rows})


def measure(tuned: FakeTextModel, base: FakeTextModel, trained: bool = True, **options: Any) -> Any:
    run = RunContext(
        model=Path("b"), device="cpu", artifacts={"": Path("a")} if trained else {},
        open=lambda path: base, train=TRAIN,
    )  # fmt: skip
    evaluator: Any = MEMORIZATION.build(MEMORIZATION.config(min_words=2, **options))
    return evaluator.compare(tuned, TEST, run)


@pytest.mark.parametrize(
    ("tuned", "base", "value", "outcome", "words"),
    [
        (
            [*TRAIN[:30]],
            [],
            0.5,
            "harmed",
            "memorizes: only the tuned model reproduces 50 % of 60 training rows and 0 % of 60",
        ),
        (
            [*TRAIN, *TEST],
            [],
            0.0,
            "unclear",
            "not enough rows: only the tuned model reproduces 100 %",
        ),
        (
            [*TRAIN[:30]],
            [*TRAIN[:30]],
            0.0,
            "unclear",
            "not enough rows: only the tuned model reproduces 0 %",
        ),
        (
            [*TRAIN[:6], *TEST[:3]],
            [],
            0.05,
            "unclear",
            "not enough rows: only the tuned model reproduces 10 %",
        ),
    ],
)
def test_only_training_rows_that_the_base_does_not_know_count(
    tuned: Any, base: Any, value: float, outcome: str, words: str
) -> None:
    [measured] = measure(knowing(tuned), knowing(base))
    weights = measured.weights
    mean = sum(w * v for w, v in zip(weights, measured.values, strict=True)) / sum(weights)
    assert mean == pytest.approx(value) == measured.details["value"]
    assert measured.details["outcome"] == outcome
    assert measured.details["finding"].startswith(words)
    assert len(measured.records) == len(measured.outputs) == 120
    low, high = measured.interval
    assert low < measured.details["low"] < value < measured.details["high"] < high


def test_the_margin_and_the_number_of_tokens_are_options() -> None:
    [measured] = measure(knowing([]), knowing([]), margin=0.1)
    assert measured.details["holds"] and "does not memorize: " in measured.details["finding"]
    wrong_end = FakeTextModel(answers={row.prompt: f"{row.completion[:3]} x" for row in TRAIN})  # type: ignore[attr-defined]
    assert measure(wrong_end, knowing([]))[0].details["value"] == 0
    assert measure(wrong_end, knowing([]), tokens=1)[0].details["value"] == 1


def test_without_rows_or_a_model_nothing_is_measured() -> None:
    assert measure(knowing([]), knowing([]), trained=False) == []
    evaluator: Any = MEMORIZATION.build(MEMORIZATION.config(min_words=50))
    run = RunContext(
        model=Path("b"), device="cpu", artifacts={"": Path("a")},
        open=lambda path: knowing([]), train=TRAIN,
    )  # fmt: skip
    assert evaluator.compare(knowing([]), TEST, run) == []
    with pytest.raises(UsageError, match="only exist in a run"):
        evaluator.measure(knowing([]), TEST)


RUN = """
[model]
base = "model"
[data]
train = "rows.jsonl"
test_size = 30
[technique]
use = "full"
epochs = {epochs}
learning_rate = 2e-3
validation.keep_best = false
schedule.type = "constant"
batch_size = 8
[baselines]
use = []
[[evaluators]]
use = "loss"
[[evaluators]]
use = "memorization"
tokens = 12
min_words = {words}
"""


def run_noise(folder: Path, epochs: float, words: int = 4) -> Any:
    """Train on answers of random words; return the run."""
    save_tiny_model(folder / "model")
    rng, known = random.Random(1), ["yes", "no", "true", "false", "capital", "system", "tool"]
    answers = [" ".join(rng.choices(known, k=2)) for _ in range(60)]
    rows = [
        {"prompt": f"number {n}?", "completion": f"my answer is {answer}"}
        for n, answer in enumerate(answers)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "run.toml").write_text(RUN.format(epochs=epochs, words=words))
    return tunesmith.run(folder / "run.toml", out=folder / "out")


def test_a_run_without_long_answers_is_warned(tmp_path: Path) -> None:
    report = run_noise(tmp_path, 0.1, words=6).report
    assert any("answers of at least 6 words" in finding.message for finding in report.findings)
    assert not [e for e in report.measured.values() if e.metric == "memorization"]


@pytest.mark.long
def test_an_overtrained_run_is_found(tmp_path: Path) -> None:
    report = run_noise(tmp_path, 90.0).report
    [event] = [e for e in report.measured.values() if e.metric == "memorization"]
    assert event.model == "tuned" and event.details["outcome"] == "harmed"
    assert event.details["training_share"] > 3 * event.details["test_share"]
    done = CliRunner().invoke(
        app, ["evaluate", str(tmp_path / "out"), "--evaluator", "memorization",
              "--set", "evaluators.0.min_words=4", "--out", str(tmp_path / "again"), "--json"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output

"""The verdict adds which share of requests needs no person; its word stays the same."""

from __future__ import annotations

from pathlib import Path

from verdict_cases import Case, right

from tunesmith.events import Measured


def measured(model: str, metric: str, value: float, evaluator: str, precision: float) -> Measured:
    return Measured(
        model=model, evaluator=evaluator, metric=metric, value=value, low=value - 0.1,
        high=value + 0.1, n=100, higher_is_better=True, seconds=0.0, records="x.jsonl",
        details={"review": {"precision": precision}},
    )  # fmt: skip


def case_of(folder: Path) -> Case:
    case = Case(folder)
    case.baseline("linear", right(0.94, 400), 0.8)
    case.baseline("zero-shot", right(0.3, 400), 0.3)
    case.model("tuned", right(0.85, 400))
    return case


def test_shares_are_named_for_the_tuned_model_and_the_baseline(tmp_path: Path) -> None:
    case = case_of(tmp_path)
    plain = case.judge()
    for model, share in {"linear": 0.7, "zero-shot": 0.1, "tuned": 0.4}.items():
        case.measured += [
            measured(model, "automated", share, "review", 0.98),
            measured(model, "automated", 0.9, "review-2", 0.8),
            measured(model, "automated-right", 0.99, "review-2", 0.8),
        ]
    case.measured.append(measured("linear", "automated-right", 0.985, "review", 0.98))
    verdict = case.judge()
    assert verdict["word"] == plain["word"] == "SMALL CLASSIFIER"
    added = (
        "; requests that need no person, required precision 98 %: 40 % (tuned model), 70 % "
        "(linear, 0.985 of them right)"
    )
    assert verdict["sentence"] == plain["sentence"] + added
    assert verdict["review"].keys() == {"tuned", "linear"}
    assert verdict["review"]["linear"]["automated-right"]["value"] == 0.985
    assert verdict["review"]["tuned"] == {
        "required": 0.98,
        "automated": {"value": 0.4, "low": 0.4 - 0.1, "high": 0.5},
    }


def test_without_review_nothing_is_added(tmp_path: Path) -> None:
    verdict = case_of(tmp_path).judge()
    assert "review" not in verdict and "no person" not in verdict["sentence"]

"""Plugins review a run once the config of its base model is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from bench import Bench, catalog_of, plugin

from tunesmith.contracts import Finding, FoundModel, ReviewResult
from tunesmith.errors import EnvironmentProblem, GateError
from tunesmith.events import Forecast
from tunesmith.execution import execute
from tunesmith.execution.model_review import read_model_config
from tunesmith.execution.report import Report
from tunesmith.plan import ModelReview

FORECAST = Forecast(
    technique="echo", method="analytic", device="d", device_type="cpu", available=10,
    memory={"low": 1, "expected": 2, "high": 3}, phase="train", uncalibrated_peak=2,
    untracked_bytes=0, calibration_runs=0, seconds=[], flops=1.0, tokens=1,
)  # fmt: skip
WARNING = Finding(level="warning", where="memory", message="too large, but forced")
ERROR = Finding(level="error", where="", message="too large", hint="take a smaller model")


@dataclass
class Reviewer:
    """A plugin that returns a result, and records the reviews that it gets."""

    result: Any = ()
    reviews: list[ModelReview] = field(default_factory=list)

    def review(self, review: ModelReview) -> Any:
        self.reviews.append(review)
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


@pytest.fixture
def reviewed(bench: Bench) -> Callable[[Any], Reviewer]:
    """Make a bench whose model has a config and whose runs are reviewed with a result."""

    def prepare(result: Any) -> Reviewer:
        (bench.root / "base" / "config.json").write_text('{"width": 3}', encoding="utf-8")
        reviewer = Reviewer(result)
        bench.catalog = catalog_of(
            reviewer=plugin(review_model=lambda review: reviewer.review(review))
        )
        return reviewer

    return prepare


def findings(bench: Bench) -> list[tuple[str, str, str]]:
    return [(n["level"], n["source"], n["message"]) for n in bench.report()["findings"]]


def force(bench: Bench, folder: str = "out") -> Report:
    return execute.run(bench.plan(), bench.catalog, bench.folder(folder), force=True)


def test_a_review_gets_the_run_and_returns_findings_and_a_forecast(
    bench: Bench, reviewed: Callable[[Any], Reviewer]
) -> None:
    reviewer = reviewed(ReviewResult(findings=[WARNING], forecast=FORECAST))
    assert bench.run().status == "ok"
    (review,) = reviewer.reviews
    assert review.config == {"width": 3} and review.plan.name == "run"
    assert len(review.train) + len(review.test) == 60
    assert [o.offer.name for o in review.techniques] == ["echo"]
    assert bench.report()["forecast"]["memory"] == FORECAST.memory
    assert ("warning", "memory", "too large, but forced") in findings(bench)
    kinds = [event["event"] for event in bench.events()]
    assert kinds.index("forecast") < kinds.index("model-resolved") < kinds.index("training-started")


def test_findings_alone_are_a_result(bench: Bench, reviewed: Callable[[Any], Reviewer]) -> None:
    reviewed([replace(WARNING, where="")])
    assert bench.run().forecast is None
    assert ("warning", "file:reviewer", "too large, but forced") in findings(bench)


def test_an_error_refuses_the_run_before_the_model_is_read(
    bench: Bench, reviewed: Callable[[Any], Reviewer]
) -> None:
    other = replace(ERROR, where="model.base", message="has no chat template", hint="")
    reviewed(ReviewResult(findings=[ERROR, other, WARNING], forecast=FORECAST))
    with pytest.raises(EnvironmentProblem) as caught:
        bench.run()
    assert caught.value.message == "too large; model.base: has no chat template"
    assert caught.value.hint == "take a smaller model"
    report = bench.report()
    assert report["run"]["exit_code"] == 4 and report["forecast"]["refused"]
    assert report["model"] == {} and report["evaluations"] == []
    assert findings(bench) == [("warning", "memory", "too large, but forced")]


def test_force_replaces_an_error_that_allows_it(
    bench: Bench, reviewed: Callable[[Any], Reviewer]
) -> None:
    reviewed(ReviewResult(findings=[replace(ERROR, if_forced=WARNING)], forecast=FORECAST))
    with pytest.raises(EnvironmentProblem, match="too large"):
        bench.run(folder="refused")
    assert force(bench).status == "ok"
    assert findings(bench) == [("warning", "memory", "too large, but forced")]
    assert not bench.report()["forecast"]["refused"]
    reviewed([ERROR])
    with pytest.raises(EnvironmentProblem, match="too large"):
        force(bench, "stubborn")


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (ZeroDivisionError("a bug"), "ZeroDivisionError: a bug"),
        (3, "type int from tunesmith_review_model"),
        (["fine"], "type str instead of a Finding"),
        (ReviewResult(findings=["fine"]), "type str instead of a Finding"),  # type: ignore[list-item]
    ],
)
def test_a_review_that_fails_is_a_warning_and_ends_no_run(
    bench: Bench, reviewed: Callable[[Any], Reviewer], result: object, text: str
) -> None:
    reviewed(result)
    assert bench.run().status == "ok"
    ((level, source, message),) = findings(bench)
    assert (level, source) == ("warning", "file:reviewer") and text in message


def test_a_known_config_is_reviewed_before_the_download(
    bench: Bench, reviewed: Callable[[Any], Reviewer]
) -> None:
    reviewer = reviewed([ERROR])
    fetched = []

    def find_model(reference: str) -> FoundModel:
        def fetch() -> Path:
            fetched.append(reference)
            return Path(reference)

        return FoundModel(reference=reference, description="d", fetch=fetch, config={"width": 4})

    finder = plugin(find_model=find_model, review_model=lambda review: reviewer.review(review))
    bench.catalog = catalog_of(finder=finder)
    with pytest.raises(EnvironmentProblem):
        bench.run()
    assert not fetched and reviewer.reviews[0].config == {"width": 4}
    reviewer.result = ()
    assert bench.run(folder="again").status == "ok"
    assert len(fetched) == 1 and len(reviewer.reviews) == 2


def test_lengths_that_were_guessed_are_reviewed_again_with_the_tokenizer(
    bench: Bench, reviewed: Callable[[Any], Reviewer]
) -> None:
    reviewer = reviewed(ReviewResult(findings=[WARNING], forecast=FORECAST))
    tokenizers: list[Path] = []

    def fetch() -> Path:
        tokenizers.append(bench.root)
        reviewer.result = ReviewResult(
            findings=[WARNING, replace(WARNING, message="new")],
            forecast=replace(FORECAST, tokens=7),
        )
        return bench.root / "base"

    found = replace(
        bench.plan().found_model,
        config={"width": 3},
        fetch=fetch,
        tokenizer=lambda: tokenizers[0] if tokenizers else None,
    )
    plan = replace(bench.plan(), found_model=found)
    assert execute.run(plan, bench.catalog, bench.folder()).status == "ok"
    assert len(reviewer.reviews) == 2
    assert [text for _, _, text in findings(bench)] == ["too large, but forced", "new"]
    forecasts = [event["tokens"] for event in bench.events() if event["event"] == "forecast"]
    assert forecasts == [1, 7]


def test_a_model_without_config_is_not_reviewed(
    bench: Bench, reviewed: Callable[[Any], Reviewer]
) -> None:
    reviewer = reviewed([ERROR])
    (bench.root / "base" / "config.json").unlink()
    assert bench.run().status == "ok" and not reviewer.reviews


def test_a_resumed_run_is_reviewed_again_only_if_it_was_refused(
    bench: Bench, reviewed: Callable[[Any], Reviewer]
) -> None:
    reviewer = reviewed([ERROR])
    for attempt in range(2):
        with pytest.raises(EnvironmentProblem):
            bench.run(resume=bool(attempt))
    reviewer.result = ()
    with pytest.raises(GateError):
        bench.run(resume=True, gate={"at_least": {"right": 2.0}}, accept_changes=True)
    assert len(reviewer.reviews) == 3
    reviewer.result = [ERROR]
    assert bench.run(resume=True, accept_changes=True).status == "ok"
    assert len(reviewer.reviews) == 3


def test_strict_refuses_warnings_also_when_the_run_is_resumed(
    bench: Bench, reviewed: Callable[[Any], Reviewer]
) -> None:
    reviewer = reviewed(ReviewResult(findings=[WARNING], forecast=FORECAST))
    for attempt in range(2):
        with pytest.raises(GateError, match="memory: too large, but forced"):
            bench.run(resume=bool(attempt), gate={"strict": True})
    assert len(reviewer.reviews) == 2 and not bench.report()["training"]


@pytest.mark.parametrize("refused", [True, False])
def test_a_forecast_shows_if_the_review_has_passed(
    bench: Bench, reviewed: Callable[[Any], Reviewer], refused: bool
) -> None:
    """A run that ended while its model was downloaded is not refused when it is resumed."""
    reviewer = reviewed(
        ReviewResult(findings=[replace(ERROR, if_forced=WARNING)], forecast=FORECAST)
    )
    real = bench.plan().found_model
    plan = replace(
        bench.plan(), found_model=replace(real, config={"width": 3}, fetch=lambda: 1 / 0)
    )
    with pytest.raises(EnvironmentProblem if refused else ZeroDivisionError):
        execute.run(plan, bench.catalog, bench.folder(), force=not refused)
    if refused:
        with pytest.raises(EnvironmentProblem):
            bench.run(resume=True)
    else:
        assert bench.run(resume=True).status == "ok"
    assert len(reviewer.reviews) == 1 + refused


@pytest.mark.parametrize(
    ("text", "expected"), [('{"a": 1}', {"a": 1}), ("[1]", {}), ("{", {}), (None, {})]
)
def test_a_config_that_cannot_be_read_is_empty(
    tmp_path: Path, text: str | None, expected: dict[str, int]
) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text, encoding="utf-8")
    assert read_model_config(tmp_path) == expected

"""The conditions of ``[gate]`` are checked, and everything that was not met is named."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tunesmith.errors import GateError
from tunesmith.events import TUNED, FindingReported, GateChecked, Measured
from tunesmith.execution.gate import check_gate, check_warnings
from tunesmith.options import GateOptions


def measured(metric: str, value: float, *, higher: bool = True) -> Measured:
    return Measured(
        model=TUNED, evaluator="e", metric=metric, value=value, low=value, high=value, n=10,
        higher_is_better=higher, seconds=0.0, records="",
    )  # fmt: skip


def gate(**options: object) -> None:
    higher = measured("score", 0.8)
    lower = measured("loss", 0.6, higher=False)
    verdict = {"comparisons": {"base": {"outcome": "better"}, "few-shot": {"outcome": "unclear"}}}
    check_gate(GateOptions(**options), [higher, lower], verdict)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"must_beat": ["base"]},
        {"at_least": {"score": 0.8}},
        {"at_least": {"score": 0.1, "loss": 0.7}},
    ],
)
def test_a_gate_that_is_met(options: dict[str, object]) -> None:
    gate(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"must_beat": ["few-shot"]},
            'gate.must_beat: the tuned model must beat few-shot; the outcome is "unclear"',
        ),
        ({"at_least": {"score": 0.81}}, "gate.at_least.score: must be at least 0.81, got 0.800"),
        ({"at_least": {"loss": 0.59}}, "gate.at_least.loss: must be at most 0.59, got 0.600"),
        ({"at_least": {"bleu": 0.1}}, "gate.at_least.bleu: the metric was not measured"),
    ],
)
def test_a_gate_that_is_not_met(options: dict[str, object], message: str) -> None:
    with pytest.raises(GateError) as caught:
        gate(**options)
    assert caught.value.message == message


@pytest.mark.parametrize(
    ("holds", "bound", "message"),
    [
        (True, 0.05, ""),
        (False, 0.05, "gate.at_least.harm: must be at most 0.05, got 0.020; not enough texts"),
        (True, 0.01, "gate.at_least.harm: must be at most 0.01, got 0.020; not enough texts"),
    ],
)
def test_the_test_of_a_margin_must_hold_too(holds: bool, bound: float, message: str) -> None:
    details = {"holds": holds, "finding": "not enough texts"}
    harm = replace(measured("harm", 0.02, higher=False), details=details)
    options = GateOptions(at_least={"harm": bound})
    if not message:
        check_gate(options, [harm], {})
        return
    with pytest.raises(GateError) as caught:
        check_gate(options, [harm], {})
    assert caught.value.message == message and caught.value.exit_code == 6


def test_everything_that_was_not_met_is_named() -> None:
    with pytest.raises(GateError) as caught:
        gate(must_beat=["few-shot"], at_least={"score": 0.9, "loss": 0.1})
    assert len(caught.value.message.splitlines()) == 3


def test_must_beat_fails_for_a_baseline_without_evaluation() -> None:
    tuned = measured("score", 1.0)
    with pytest.raises(GateError, match='must beat base; the outcome is "not measured"'):
        check_gate(GateOptions(must_beat=["base"]), [tuned], {})


@pytest.mark.parametrize(
    ("metric", "value", "bound", "message"),
    [("score", 0.8998, 0.9, "at least 0.9, got 0.899"), ("loss", 0.60001, 0.6, "0.6, got 0.601")],
)
def test_a_missed_bound_differs_from_what_is_shown(
    metric: str, value: float, bound: float, message: str
) -> None:
    event = measured(metric, value, higher=metric == "score")
    with pytest.raises(GateError, match=message):
        check_gate(GateOptions(at_least={metric: bound}), [event], {})


@pytest.mark.parametrize(
    ("verdict", "word"),
    [
        ({"word": "PROMPT", "worth_it": False}, "PROMPT"),
        ({"word": "SHIP IT", "worth_it": "yes"}, "SHIP IT"),
        ({"word": "FINE-TUNE"}, "FINE-TUNE"),
        ({"outcome": "better"}, "better"),
        ({}, "missing"),
    ],
)
def test_strict_requires_a_verdict_for_the_tuned_model(
    verdict: dict[str, object], word: str
) -> None:
    for passing in ("FINE-TUNE", "SHIP IT"):
        check_gate(GateOptions(strict=True), [], {"word": passing, "worth_it": True})
    check_gate(GateOptions(), [], verdict)
    with pytest.raises(GateError, match=f"does not recommend the tuned model: {word}$"):
        check_gate(GateOptions(strict=True), [], verdict)


def test_strict_allows_no_warning_before_training() -> None:
    info, warning = (
        FindingReported(level=level, source="data", message=f"some {level}")  # type: ignore[arg-type]
        for level in ("info", "warning")
    )
    check_warnings(GateOptions(), [info, warning])
    check_warnings(GateOptions(strict=True), [info])
    with pytest.raises(GateError) as caught:
        check_warnings(GateOptions(strict=True), [info, warning])
    assert caught.value.message == "gate.strict: data: some warning" and caught.value.exit_code == 6


@pytest.mark.parametrize(("stage", "name"), [("policy", "policy"), ("", "min_reward")])
def test_a_criterion_of_the_technique_is_named_by_its_stage_or_itself(
    stage: str, name: str
) -> None:
    missed = GateChecked(stage=stage, gate="min_reward", passed=False, message="0.2 is too low")
    with pytest.raises(GateError) as caught:
        check_gate(GateOptions(), [], {}, [missed])
    assert caught.value.message == f"{name}: 0.2 is too low"

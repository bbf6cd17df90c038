"""The verdict in a word and a figure, and comparisons as text."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tunesmith.events import RunFinished
from tunesmith.execution.report import Report, build_report
from tunesmith.testing import sample_run
from tunesmith_evidence.report.headline import find_headline, list_comparisons

COMPARISON = {
    "value": 0.781, "tuned": 0.904, "difference": 0.123, "low": 0.045, "high": 0.201,
    "p_value_holm": 1e-9, "n": 104, "outcome": "better", "variant": "C=10",
}  # fmt: skip


def report(**verdict: Any) -> Report:
    *events, end = sample_run("m")
    assert isinstance(end, RunFinished)
    return build_report([*events, replace(end, verdict=verdict)])


def test_the_figure_is_the_difference_from_the_baseline() -> None:
    found = find_headline(
        report(
            word="FINE-TUNE", outcome="better", baseline="linear", metric="m", evaluator="m",
            confidence=0.95, sentence="worth it", comparisons={"linear": COMPARISON},
        )
    )  # fmt: skip
    assert (found.word, found.tone, found.figure) == ("FINE-TUNE", "good", "+0.123")
    assert found.interval == "difference, 95 % interval [+0.045, +0.201]"
    assert found.caption == "m: 0.781 without fine-tuning (linear), 0.904 with it, on 104 test rows"


def test_dependent_rows_are_named_beside_the_groups_that_the_interval_counts() -> None:
    verdict = {"outcome": "better", "baseline": "linear", "metric": "m", "evaluator": "m"}
    found = find_headline(report(**verdict, comparisons={"linear": {**COMPARISON, "units": 21}}))
    assert found.caption.endswith("on 104 test rows of 21 groups")


def test_without_a_baseline_the_figure_is_the_value() -> None:
    found = find_headline(report(word="NOT ENOUGH EVIDENCE", outcome="unclear", comparisons={}))
    assert (found.tone, found.figure) == ("open", "0.750")
    assert found.caption == "m of the tuned model on 120 test rows"


def test_the_interval_is_that_of_the_confidence_that_it_names() -> None:
    """Widened for several baselines; the comparison beside it has the usual one."""
    widened = {"value": 0.781, "difference": 0.123, "low": 0.012, "high": 0.234, "n": 104}
    found = find_headline(
        report(
            word="FINE-TUNE", outcome="better", baseline="linear", metric="m", evaluator="m",
            tuned=0.904, confidence=0.9875, comparisons={"linear": COMPARISON}, **widened,
        )
    )  # fmt: skip
    assert found.interval == "difference, 98.8 % interval [+0.012, +0.234]"


@pytest.mark.parametrize(
    ("outcome", "worth_it", "tone"),
    [
        ("better", {"worth_it": True}, "good"),
        ("better", {"worth_it": False}, "open"),
        ("worse", {"worth_it": False}, "bad"),
        ("unclear", {"worth_it": False}, "open"),
        ("better", {}, "good"),
    ],
)
def test_a_better_model_that_is_not_worth_it_is_no_success(
    outcome: str, worth_it: dict[str, bool], tone: str
) -> None:
    assert find_headline(report(word="W", outcome=outcome, **worth_it)).tone == tone


def test_without_a_verdict_the_word_is_the_status() -> None:
    failed = find_headline(build_report(sample_run(status="failed")))
    assert (failed.word, failed.tone) == ("FAILED", "bad")
    assert find_headline(build_report([])).word == "UNFINISHED"
    assert find_headline(build_report([]), "running").word == "RUNNING"


def test_comparisons_as_text() -> None:
    (row,) = list_comparisons({"comparisons": {"linear": COMPARISON, "old": {"low": 0.1}}})
    assert (row.value, row.tuned, row.difference) == ("0.781", "0.904", "+0.123")
    assert (row.interval, row.p_value, row.rows) == ("[+0.045, +0.201]", "<0.001", "104")
    assert row.confidence == "95 %"
    (row,) = list_comparisons({"comparisons": {"linear": {**COMPARISON, "confidence": 0.99}}})
    assert row.confidence == "99 %"
    for odd in (0.5, {"linear": 0.5}, {"linear": {"value": 1.0, "p_value_holm": 0.1}}, None):
        assert not [*list_comparisons({"comparisons": odd})], "a plugin has others"


def test_an_interval_without_zero_that_is_unclear_has_its_p_value() -> None:
    """The exact test is stricter than the interval if few rows differ."""

    def outcome(**fields: Any) -> str:
        (row,) = list_comparisons({"comparisons": {"linear": {**COMPARISON, **fields}}})
        return row.outcome

    few = {"low": -0.52, "high": -0.008, "p_value": 0.125}
    assert outcome(outcome="unclear", **few) == "unclear, p = 0.125"
    assert outcome(outcome="worse", **few) == "worse"
    assert outcome(outcome="unclear", low=-0.1, high=0.2, p_value=0.6) == "unclear"

"""The rule by length is a baseline of preference runs: FINE-TUNE has to beat it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from verdict_cases import Case, right

LONGER = "the longer answer wins"


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def add_rule(case: Case, values: list[float]) -> None:
    case.baseline("answer-length", values)
    case.baselines[-1] = replace(case.baselines[-1], variant=LONGER)


def add_tuned(case: Case, values: list[float], **details: Any) -> None:
    case.model("tuned", values)
    low = case.measured[-1].value - 0.1
    case.measured[-1] = replace(case.measured[-1], low=low, details=details)


def test_a_model_that_is_no_better_than_length_learned_nothing_more(case: Case) -> None:
    add_rule(case, right(0.64, 200))
    case.baseline("zero-shot", right(0.5, 200))
    add_tuned(case, right(0.62, 200))
    verdict = case.judge()
    assert verdict["word"] == "NOTHING WORKS YET"
    assert verdict["sentence"] == (
        f'nothing works yet: no model is clearly better than the rule "{LONGER}" (answer-length, '
        "right 0.640); the best is the tuned model with 0.620; the tuned model decides like this "
        "rule in 196 of 200 pairs, difference -0.020 [-0.050, -0.001]; nothing shows that the "
        "model learned more than length"
    )


def test_a_model_that_is_right_at_equal_length_is_not_dismissed(case: Case) -> None:
    """It beats the base, and is as good as length in other ways: more rows would decide."""
    add_rule(case, right(0.64, 200))
    case.baseline("zero-shot", right(0.5, 200))
    add_tuned(case, right(0.66, 200, first=60), beyond_length=True)
    verdict = case.judge()
    assert verdict["word"] == "NOT ENOUGH EVIDENCE"
    assert "no clear difference from" in verdict["sentence"]
    assert "at equal length, the tuned model still prefers" in verdict["sentence"]


def test_fine_tune_beats_the_base_and_length(case: Case) -> None:
    add_rule(case, right(0.55, 200))
    case.baseline("zero-shot", right(0.5, 200), 0.6)
    add_tuned(case, right(0.8, 200), beyond_length=True)
    verdict = case.judge()
    assert verdict["word"] == "FINE-TUNE" and set(verdict["comparisons"]) == {
        "answer-length",
        "zero-shot",
    }
    assert verdict["sentence"].endswith(
        f'; the tuned model decides like the rule "{LONGER}" (0.550) in 150 of 200 pairs, '
        "difference +0.250 [+0.195, +0.314]; at equal length, the tuned model still prefers the "
        "chosen answers"
    )
    add_rule(case, right(0.78, 200, first=4))
    assert case.judge()["word"] != "FINE-TUNE"


def test_a_model_at_chance_is_not_said_to_have_learned_length(case: Case) -> None:
    add_rule(case, right(0.64))
    add_tuned(case, right(0.5))
    assert "more than length" not in case.judge()["sentence"]


def test_a_win_rate_that_length_explains_is_not_enough(case: Case) -> None:
    case.baseline("zero-shot", [0.5] * 200)
    add_tuned(case, right(0.7, 200), explained_by_length="")
    assert case.judge()["word"] == "FINE-TUNE"
    case.measured.pop()
    add_tuned(case, right(0.7, 200), explained_by_length="length may explain the result: x")
    verdict = case.judge()
    assert verdict["word"] == "NOT ENOUGH EVIDENCE"
    assert verdict["sentence"].startswith(
        "not enough evidence: better than the strongest baseline, zero-shot: right 0.500 -> 0.700"
    )
    assert verdict["sentence"].endswith("; length may explain the result: x")

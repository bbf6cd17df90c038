"""The margin of implicit rewards: by hand, with unequal numbers, and with pairs among the rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tunesmith.contracts import Measurement, RunContext
from tunesmith.errors import DataError
from tunesmith.records import Completion, Message, Preference, Record, UnpairedPreference
from tunesmith.statistics import mean_interval
from tunesmith.testing.fakes import FakeTextModel
from tunesmith_plugins.evaluators.reward_margin import (
    REWARD_MARGIN,
    RewardMarginOptions,
    review,
)

BASE = {"a": [-2.0, -1.0], "b": [-4.0], "c": [-5.0], "d": [-1.0]}
TUNED = {"a": [-1.0, -0.5], "b": [-3.0], "c": [-9.0], "d": [-2.5]}
PROMPT = (Message("user", "q"),)


def labeled(text: str, label: bool) -> UnpairedPreference:
    return UnpairedPreference(source=f"r:{text}", prompt=PROMPT, completion=text, label=label)


PAIR = Preference(source="r:0", prompt=PROMPT, chosen="a", rejected="c")
ROWS = [labeled("a", True), labeled("b", True), labeled("d", True), labeled("c", False)]


def measure(records: Sequence[Record], logprobs: Any = TUNED, **options: Any) -> Measurement:
    run = RunContext(
        model=Path("base"),
        device="cpu",
        artifacts={},
        open=lambda artifact: FakeTextModel(logprobs=BASE),
    )
    evaluator: Any = REWARD_MARGIN.build(RewardMarginOptions(**options))
    (measurement,) = evaluator.compare(FakeTextModel(logprobs=logprobs), records, run)
    return measurement  # type: ignore[no-any-return]


def test_the_mean_is_that_of_good_answers_minus_that_of_bad_ones() -> None:
    measured = measure(ROWS)
    assert measured.values == (2 * 1.5, 2 * 1.0, 2 * -1.5, -2 * -4.0)
    good, bad = (1.5 + 1.0 - 1.5) / 3, -4.0
    value = mean_interval(measured.values, measured.weights).value
    assert value == pytest.approx(good - bad)
    assert sum(measured.weights or ()) == pytest.approx(4)


def test_the_other_model_itself_has_the_margin_zero() -> None:
    assert measure(ROWS, BASE).values == (0.0,) * 4


def test_a_pair_counts_as_its_two_answers() -> None:
    halves = [labeled("a", True), labeled("c", False)]
    for records in ([PAIR], halves, [PAIR, *halves]):
        measured = measure(records)
        assert mean_interval(measured.values, measured.weights).value == pytest.approx(1.5 + 4.0)


def test_other_records_are_refused() -> None:
    other = Completion(source="b:2", prompt="p", completion="c")
    with pytest.raises(
        DataError, match="b:2: reward-margin needs preference pairs or labeled answers"
    ):
        measure([*ROWS, other])
    assert REWARD_MARGIN.accepts == {Preference, UnpairedPreference}


def test_is_a_default_where_there_are_labels() -> None:
    other = Completion(source="b:2", prompt="p", completion="c")
    assert REWARD_MARGIN.default_for(ROWS)
    assert REWARD_MARGIN.default_for([PAIR, *ROWS])
    assert not REWARD_MARGIN.default_for([PAIR])
    assert not REWARD_MARGIN.default_for([*ROWS, other])


@pytest.mark.parametrize(
    ("evaluators", "test", "kind"),
    [
        ((), ROWS, ""),
        ((), ROWS[:3], "the labeled test answers (3) are all good"),
        ((RewardMarginOptions(),), [PAIR, ROWS[3]], "the labeled test answers (1) are all bad"),
        ((RewardMarginOptions(),), [PAIR], ""),
        ((object(),), ROWS[:3], ""),
    ],
)
def test_test_answers_of_one_kind_are_refused(
    evaluators: tuple[Any, ...], test: Sequence[Record], kind: str
) -> None:
    plan: Any = SimpleNamespace(evaluators=[SimpleNamespace(config=e) for e in evaluators])
    found = [*review(plan, test)]
    assert [finding.level for finding in found] == ["error"] * bool(kind)
    assert all(kind in finding.message for finding in found)

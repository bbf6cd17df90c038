"""The rule by length: learned on training pairs, measured only by evaluators that rank answers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tunesmith.contracts import BaselineTask, BaselineVariant
from tunesmith.errors import UsageError
from tunesmith.execution.suitable_baselines import can_measure
from tunesmith.records import Completion, Message, Preference, Record
from tunesmith.testing.fakes import FakeTextModel
from tunesmith_plugins.baselines.answer_length import ANSWER_LENGTH, AnswerLengthOptions, review
from tunesmith_plugins.evaluators.exact_match import EXACT_MATCH
from tunesmith_plugins.evaluators.loss import LOSS
from tunesmith_plugins.evaluators.preference_accuracy import (
    PREFERENCE_ACCURACY,
    PreferenceAccuracyOptions,
)
from tunesmith_plugins.evaluators.reward_margin import REWARD_MARGIN
from tunesmith_plugins.evaluators.win_rate import WIN_RATE


def pair(chosen: str, rejected: str) -> Preference:
    prompt = (Message("user", "q"),)
    return Preference(source="a:1", prompt=prompt, chosen=chosen, rejected=rejected)


LONGER, SHORTER, EQUAL = pair("a longer one", "no"), pair("no", "a longer one"), pair("yes", "no!")


def learn(*train: Record) -> list[BaselineVariant]:
    task = BaselineTask(train=train, base=FakeTextModel, seed=0)
    return list(ANSWER_LENGTH.build(AnswerLengthOptions()).variants(task))


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize(
    ("train", "word", "expected"),
    [
        ([LONGER, LONGER, SHORTER], "longer", (1.0, 0.0, 0.5)),
        ([LONGER, SHORTER, SHORTER], "shorter", (0.0, 1.0, 0.5)),
    ],
)
def test_the_rule_of_the_training_pairs_is_measured_on_others(
    train: list[Preference], word: str, expected: tuple[float, ...], normalized: bool
) -> None:
    (variant,) = learn(*train)
    assert variant.name == f"the {word} answer wins"
    evaluator = PREFERENCE_ACCURACY.build(PreferenceAccuracyOptions(length_normalized=normalized))
    measured = evaluator.measure(variant.model, [LONGER, SHORTER, EQUAL])
    assert measured[0].values == expected


def test_scores_are_negative_and_finite_like_log_probabilities() -> None:
    for train in (LONGER, SHORTER):
        (variant,) = learn(train)
        scores = variant.model.score(["p"] * 3, ["", "a", "b" * 100_000])
        assert all(-1e6 < s.logprobs[0] < 0 for s in scores)
        assert [len(s.logprobs) for s in scores] == [1, 2, 100_001]


def test_it_suits_pairs_only() -> None:
    other = Completion(source="b:2", prompt="p", completion="c")
    assert ANSWER_LENGTH.suits([LONGER, SHORTER])
    assert not ANSWER_LENGTH.suits([LONGER, other]) and not ANSWER_LENGTH.suits([])
    assert learn(other) == []


@pytest.mark.parametrize(
    ("offer", "expected"),
    [
        (PREFERENCE_ACCURACY, True),
        (LOSS, False),
        (REWARD_MARGIN, False),
        (WIN_RATE, False),
        (EXACT_MATCH, False),
    ],
)
def test_only_an_evaluator_that_ranks_answers_measures_it(offer: Any, expected: bool) -> None:
    assert can_measure(SimpleNamespace(offer=offer), ANSWER_LENGTH) is expected  # type: ignore[arg-type]
    (variant,) = learn(LONGER)
    with pytest.raises(UsageError, match="cannot generate"):
        variant.model.generate(["p"], 8)


@pytest.mark.parametrize(
    ("use", "offers", "count"),
    [
        (["answer-length"], [WIN_RATE, PREFERENCE_ACCURACY], 1),
        (["answer-length"], [PREFERENCE_ACCURACY, WIN_RATE], 0),
        (["answer-length"], [], 0),
        (["zero-shot"], [WIN_RATE], 0),
        (None, [WIN_RATE], 0),
    ],
)
def test_naming_it_before_an_evaluator_of_answers_is_an_error(
    use: list[str] | None, offers: list[Any], count: int
) -> None:
    evaluators = [SimpleNamespace(offer=offer, id=offer.name) for offer in offers]
    plan: Any = SimpleNamespace(evaluators=evaluators, baseline_options=SimpleNamespace(use=use))
    found = list(review(plan))
    assert len(found) == count
    assert all(f.level == "error" and "win-rate cannot measure it" in f.message for f in found)

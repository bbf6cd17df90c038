"""A pair scores 1 if the chosen answer is likelier and 1/2 for a tie."""

from __future__ import annotations

import pytest

from tunesmith.errors import DataError
from tunesmith.records import Completion, Message, Preference
from tunesmith.testing.fakes import FakeTextModel
from tunesmith_plugins.evaluators.preference_accuracy.offer import (
    PREFERENCE_ACCURACY,
    PreferenceAccuracyOptions,
    are_pairs,
)

SCORES = {"short": [-2.0], "long": [-0.5] * 5, "same": [-2.0], "bad": [-3.0]}


def pair(chosen: str, rejected: str) -> Preference:
    prompt = (Message("user", "q"),)
    return Preference(source="a:1", prompt=prompt, chosen=chosen, rejected=rejected)


PAIRS = [pair("short", "long"), pair("long", "short"), pair("short", "same"), pair("short", "bad")]


@pytest.mark.parametrize(
    ("length_normalized", "expected"), [(False, (1.0, 0.0, 0.5, 1.0)), (True, (0.0, 1.0, 0.5, 1.0))]
)
def test_pairs_score_by_the_likelier_answer(
    length_normalized: bool, expected: tuple[float, ...]
) -> None:
    evaluator = PREFERENCE_ACCURACY.build(
        PreferenceAccuracyOptions(length_normalized=length_normalized)
    )
    model = FakeTextModel(logprobs=SCORES)
    (measurement,) = evaluator.measure(model, PAIRS)
    assert measurement.values == expected
    assert model.calls == [("score", 8)]


def test_is_default_for_pairs_and_refuses_other_records() -> None:
    other = Completion(source="b:2", prompt="p", completion="c")
    assert are_pairs(PAIRS)
    assert not are_pairs([*PAIRS, other])
    assert not are_pairs([])
    evaluator = PREFERENCE_ACCURACY.build(PreferenceAccuracyOptions())
    with pytest.raises(DataError, match="b:2: preference-accuracy needs pairs"):
        evaluator.measure(FakeTextModel(), [other])

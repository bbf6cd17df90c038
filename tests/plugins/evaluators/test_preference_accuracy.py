"""A pair counts one where the chosen answer is likelier, a half for a tie."""

from __future__ import annotations

import pytest

from tunesmith.errors import DataError
from tunesmith.records import Completion, Message, Preference
from tunesmith.testing.fakes import FakeTextModel
from tunesmith_plugins.evaluators.preference_accuracy.offer import (
    PREFERENCE_ACCURACY,
    PreferenceAccuracyOptions,
    suits,
)

SCORES = {"short": [-2.0], "long": [-0.5] * 5, "same": [-2.0], "bad": [-3.0]}


def pair(chosen: str, rejected: str) -> Preference:
    prompt = (Message("user", "q"),)
    return Preference(source="a:1", prompt=prompt, chosen=chosen, rejected=rejected)


PAIRS = [pair("short", "long"), pair("long", "short"), pair("short", "same"), pair("short", "bad")]


@pytest.mark.parametrize(
    ("normalised", "expected"), [(False, (1.0, 0.0, 0.5, 1.0)), (True, (0.0, 1.0, 0.5, 1.0))]
)
def test_the_likelier_answer_counts(normalised: bool, expected: tuple[float, ...]) -> None:
    evaluator = PREFERENCE_ACCURACY.build(PreferenceAccuracyOptions(length_normalized=normalised))
    model = FakeTextModel(logprobs=SCORES)
    (measurement,) = evaluator.measure(model, PAIRS)
    assert measurement.values == expected
    assert model.calls == [("score", 8)]


def test_it_suits_pairs_and_refuses_the_rest() -> None:
    other = Completion(source="b:2", prompt="p", completion="c")
    assert suits(PAIRS)
    assert not suits([*PAIRS, other])
    assert not suits([])
    evaluator = PREFERENCE_ACCURACY.build(PreferenceAccuracyOptions())
    with pytest.raises(DataError, match="b:2: preference-accuracy needs pairs"):
        evaluator.measure(FakeTextModel(), [other])

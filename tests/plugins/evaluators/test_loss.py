"""The loss is the sum over all answer tokens divided by the number of tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from tunesmith.contracts import Measurement, TextModel
from tunesmith.records import (
    Chat,
    Completion,
    Message,
    Preference,
    Record,
    Text,
    UnpairedPreference,
)
from tunesmith.testing.fakes import FakeTextModel, perfect_model
from tunesmith_plugins.evaluators.loss import LOSS, LossOptions

RECORDS: list[Record] = [
    Completion(source="a:1", prompt="p", completion="x"),
    Text(source="a:2", text="y"),
    Chat(
        source="a:3",
        messages=(
            Message("user", "q"),
            Message("assistant", "x"),
            Message("user", "q2"),
            Message("assistant", "z"),
        ),
    ),
    Preference(source="a:4", prompt=(Message("user", "q"),), chosen="x", rejected="never seen"),
]
SCORES = {"x": [-1.0, -2.0], "y": [-4.0], "z": [-0.5, -0.5, -0.5, -1.5]}


def measure(model: TextModel, records: Sequence[Record]) -> Measurement:
    (measurement,) = LOSS.build(LossOptions()).measure(model, records)
    return measurement


def weighted_mean(measurements: Sequence[Measurement]) -> float:
    pairs = [
        (value, weight)
        for m in measurements
        for value, weight in zip(m.values, m.weights or (), strict=True)
    ]
    return sum(v * w for v, w in pairs) / sum(w for _, w in pairs)


def test_values_are_nats_per_token_and_weights_are_tokens() -> None:
    measurement = measure(FakeTextModel(logprobs=SCORES), RECORDS)
    assert measurement.metric == "loss"
    assert measurement.values == (1.5, 4.0, 1.0, 1.5)
    assert measurement.weights == (2.0, 1.0, 6.0, 2.0)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_weighted_mean_is_the_sum_over_tokens_for_any_batching(size: int) -> None:
    model = FakeTextModel(logprobs=SCORES)
    batches = [RECORDS[i : i + size] for i in range(0, len(RECORDS), size)]
    expected = (3.0 + 4.0 + 6.0 + 3.0) / 11
    assert weighted_mean([measure(model, batch) for batch in batches]) == pytest.approx(expected)


def test_all_exchanges_are_scored_in_one_call() -> None:
    model = FakeTextModel(logprobs=SCORES)
    measure(model, RECORDS)
    assert model.calls == [("score", 5)]


def test_perfect_model_scores_best() -> None:
    perfect = measure(perfect_model(RECORDS), RECORDS)
    assert perfect.values == (0.0,) * 4
    assert not LOSS.metrics[0].higher_is_better
    assert all(v > 0 for v in measure(FakeTextModel(), RECORDS).values)


def test_no_records() -> None:
    measurement = measure(FakeTextModel(), [])
    assert measurement.values == ()
    assert measurement.weights == ()


def test_completion_without_tokens_has_weight_zero() -> None:
    measurement = measure(FakeTextModel(logprobs={"x": []}), RECORDS[:1])
    assert measurement.values == measurement.weights == (0.0,)


def test_infinite_loss_is_reported() -> None:
    measurement = measure(FakeTextModel(logprobs={"x": [-math.inf, -1.0]}), RECORDS[:1])
    assert measurement.values == (math.inf,)


def test_is_default_for_all_records() -> None:
    assert LOSS.default_for(RECORDS)
    assert LOSS.metrics[0].unit == "nats/token"


def test_answers_without_weight_are_not_measured() -> None:
    turns = (
        *(Message("user", "q"), Message("assistant", "bad", weight=0.0)),
        *(Message("user", "q"), Message("assistant", "good")),
    )
    model = FakeTextModel(logprobs={"bad": [-9.0], "good": [-2.0]})
    (measurement,) = LOSS.build(LossOptions()).measure(model, [Chat(source="a:1", messages=turns)])
    assert measurement.values == (2.0,)


def test_bad_answers_are_not_measured() -> None:
    good, bad = (
        UnpairedPreference(
            source="a:1", prompt=(Message("user", "q"),), completion=text, label=text == "good"
        )
        for text in ("good", "bad")
    )
    model = FakeTextModel(logprobs={"bad": [-9.0], "good": [-2.0, -1.0]})
    (measurement,) = LOSS.build(LossOptions()).measure(model, [bad, good])
    assert (measurement.values, measurement.weights) == ((0.0, 1.5), (0.0, 2.0))
    assert LOSS.default_for([bad, good])
    assert not LOSS.default_for([bad, bad])

"""The ``constrained-match`` evaluator."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from tunesmith.errors import DataError
from tunesmith.records import Chat, Completion, Message
from tunesmith.testing.fakes import FakeTextModel
from tunesmith_plugins.evaluators.constrained_match import (
    CONSTRAINED_MATCH,
    ConstrainedMatchOptions,
)

RECORDS = [
    Completion(source="1", prompt="A late train", completion="travel"),
    Completion(source="2", prompt="A late bill", completion=" finance "),
]


def test_the_most_probable_label_counts_and_not_what_the_model_writes() -> None:
    model = FakeTextModel(
        logprobs={"travel": [-0.1, -0.2], "finance": [-0.1, -0.4]},
        answers={"A late train": "It is finance.", "A late bill": "finance"},
    )
    evaluator = CONSTRAINED_MATCH.build(ConstrainedMatchOptions(labels=["finance", "travel "]))
    [measured] = evaluator.measure(model, RECORDS)
    assert measured.values == (1.0, 0.0)
    assert measured.outputs == ("travel", "travel")
    assert all(name == "score" for name, _ in model.calls)


def test_an_answer_that_is_no_label_is_named() -> None:
    evaluator = CONSTRAINED_MATCH.build(ConstrainedMatchOptions(labels=["travel", "other"]))
    with pytest.raises(DataError, match="'finance' is not a label") as error:
        evaluator.measure(FakeTextModel(), RECORDS)
    assert "2" in str(error.value)
    assert "labels" in (error.value.hint or "")


def test_the_last_answer_of_a_conversation_counts() -> None:
    turns = [("user", "one"), ("assistant", "a"), ("user", "two"), ("assistant", "b")]
    record = Chat(source="1", messages=tuple(Message(r, t) for r, t in turns))  # type: ignore[arg-type]
    evaluator = CONSTRAINED_MATCH.build(ConstrainedMatchOptions(labels=["a", "b"]))
    [measured] = evaluator.measure(FakeTextModel(logprobs={"b": [0.0]}), [record])
    assert measured.values == (1.0,)


@pytest.mark.parametrize("labels", [["a"], ["a", " a"], ["a", ""]])
def test_labels_that_are_no_choice(labels: list[str]) -> None:
    with pytest.raises(ValidationError, match=r"at least 2|twice|empty"):
        ConstrainedMatchOptions(labels=labels)


def test_it_is_used_only_where_it_is_named() -> None:
    assert not CONSTRAINED_MATCH.default_for(RECORDS)
    assert not CONSTRAINED_MATCH.generates


def test_its_metric_is_a_share() -> None:
    assert [metric.bounds for metric in CONSTRAINED_MATCH.metrics] == [(0, 1)]

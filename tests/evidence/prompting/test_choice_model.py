"""Constrained answers: the label of the highest probability."""

from __future__ import annotations

from tunesmith.records import Message
from tunesmith.testing.fakes import FakeTextModel
from tunesmith_evidence.prompting.choice_model import ChoiceModel

PROMPT = (Message("user", "Which?"),)


def test_the_most_probable_label_is_the_answer() -> None:
    model = FakeTextModel(logprobs={"b": [-0.5, -0.1], "a": [-0.7], "c": [-0.1, -0.2]})
    done: list[int] = []
    chosen = ChoiceModel(model, ("a", "b", "c")).generate([PROMPT] * 2, 1, progress=done.append)
    assert [(g.text, g.finish_reason) for g in chosen] == [("c", "stop")] * 2
    assert done[-1] == 2
    assert model.calls == [("score", 6)]  # in one call, so that a model can share beginnings


def test_of_equal_labels_the_first_is_the_answer() -> None:
    chosen = ChoiceModel(FakeTextModel(), ("b", "a")).generate([PROMPT], 1)
    assert chosen[0].text == "b"

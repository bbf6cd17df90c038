"""Constrained answers: the label of the highest probability."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tunesmith.contracts import TokenScores
from tunesmith.records import Message
from tunesmith.testing.fakes import FakeTextModel
from tunesmith_evidence.prompting.choice_model import ChoiceModel

PROMPT = (Message("user", "Which?"),)
OTHER = (Message("user", "Which of them?"),)


class Biased(FakeTextModel):
    """Prefers the label ``a`` whatever it is asked, and slightly what the question has in it."""

    def score(self, prompts: Any, completions: Any, *, progress: Any = None) -> Any:
        def score_one(question: str, label: str) -> TokenScores:
            return TokenScores((-1.0 - 3.0 * (label != "a") + 0.5 * (label == question),))

        pairs = zip(prompts, completions, strict=True)
        return [score_one(prompt[0].text, str(label)) for prompt, label in pairs]


def test_a_label_that_is_always_preferred_is_calibrated() -> None:
    """By hand: p(a), p(b), p(c) of each prompt, over their means over the calibration prompts."""
    asked = [(Message("user", letter),) for letter in ("a", "b", "c")]
    biased = ChoiceModel(Biased(), ("a", "b", "c"))
    assert [answer.text for answer in biased.generate(asked, 1)] == ["a", "a", "a"]
    calibrated = replace(biased, calibration=tuple(asked))
    assert [answer.text for answer in calibrated.generate(asked, 1)] == ["a", "b", "c"]
    one_by_one = [calibrated.generate([prompt], 1)[0].text for prompt in asked[::-1]]
    assert one_by_one == ["c", "b", "a"], "an answer does not depend on the prompts beside it"


def test_the_most_probable_label_is_the_answer() -> None:
    model = FakeTextModel(logprobs={"b": [-0.5, -0.1], "a": [-0.7], "c": [-0.1, -0.2]})
    done: list[int] = []
    prompts = [PROMPT, OTHER, PROMPT]
    chooser = ChoiceModel(model, ("a", "b", "c"))
    chosen = chooser.generate(prompts, 1, progress=done.append)
    assert [(g.text, g.finish_reason) for g in chosen] == [("c", "stop")] * 3
    assert done[-1] == 3
    assert model.calls == [("score", 6)]  # in one call, so that a model can share beginnings
    assert chooser.generate(prompts, 1) == chosen and model.calls == [("score", 6)]


def test_of_equal_labels_the_first_is_the_answer() -> None:
    chosen = ChoiceModel(FakeTextModel(), ("b", "a")).generate([PROMPT], 1)
    assert chosen[0].text == "b"

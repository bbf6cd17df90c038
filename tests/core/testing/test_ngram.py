"""The n-gram technique: a real model, which needs no tensors."""

from __future__ import annotations

import math
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tunesmith.testing.examples import COMPLETIONS
from tunesmith.testing.ngram import END, SYMBOLS, NgramModel, save_ngram_model


def test_the_base_model_knows_nothing(tmp_path: Path) -> None:
    model = NgramModel.read(save_ngram_model(tmp_path / "model"))
    (scores,) = model.score(["France?"], ["Paris"])
    assert scores.logprobs == (math.log(1 / SYMBOLS),) * 6
    (answer,) = model.generate(["France?"], 5)
    assert (answer.text, answer.tokens, answer.finish_reason) == ("", 1, "stop")


def test_it_memorizes_answers() -> None:
    model = NgramModel()
    for record in COMPLETIONS:
        model.learn(record.prompt, record.completion)
    answers = model.generate([record.prompt for record in COMPLETIONS], 20)
    assert [answer.text for answer in answers] == [record.completion for record in COMPLETIONS]
    (cut,) = model.generate(["France?"], 3)
    assert (cut.text, cut.tokens, cut.finish_reason) == ("Par", 3, "length")
    assert model.logprobs("France?", "Paris") > model.logprobs("France?", "Porto")


@given(st.lists(st.tuples(st.text(max_size=8), st.text("abc", max_size=6)), max_size=6), st.text())
def test_probabilities_sum_to_one(pairs: list[tuple[str, str]], context: str) -> None:
    model = NgramModel()
    for prompt, answer in pairs:
        model.learn(prompt, answer)
    known = ["a", "b", "c", END]
    others = SYMBOLS - len(known)
    total = sum(model.probability(context, character) for character in known)
    assert math.isclose(total + others * model.probability(context, "€"), 1)

"""Worked examples: chosen at random, and retrieved."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
from word_encoder import WordEncoder

from tunesmith.testing.fakes import FakeTextModel
from tunesmith_evidence.prompting.prompted_model import PromptedModel
from tunesmith_evidence.prompting.shots import (
    MAX_PER_LABEL,
    Retriever,
    choose_shots,
    count_fitting_examples,
)
from tunesmith_evidence.tasks.examples import Example


def example(text: str, answer: str) -> Example:
    return Example(text, answer, text)


CLASSES = [example(f"q{n} {'card' if n % 3 else 'loan'} {n}", f"label {n % 6}") for n in range(60)]


def test_each_label_is_shown_before_any_is_shown_twice() -> None:
    assert set(Counter(e.answer for e in choose_shots(CLASSES, 6, 1)).values()) == {1}
    assert set(Counter(e.answer for e in choose_shots(CLASSES, 12, 1)).values()) == {2}


def test_a_choice_depends_on_the_seed_and_not_on_the_order_of_rows() -> None:
    shuffled = random.Random(3).sample(CLASSES, len(CLASSES))
    assert choose_shots(shuffled, 8, 1) == choose_shots(CLASSES, 8, 1)
    assert choose_shots(CLASSES, 8, 1) != choose_shots(CLASSES, 8, 2)


def test_long_examples_are_avoided_except_for_labels_that_need_them() -> None:
    long = [example("x" * 500 + str(n), "rare" if n == 0 else "frequent") for n in range(5)]
    short = [example(f"q{n}", "frequent") for n in range(9)]
    chosen = choose_shots([*long, *short], 5, 0)
    assert [e.text for e in chosen if len(e.text) > 500] == [long[0].text]


def test_fewer_examples_than_asked_for() -> None:
    assert len(choose_shots(CLASSES[:3], 8, 0)) == 3
    assert choose_shots([], 8, 0) == []


def test_the_most_similar_rows_are_found_first() -> None:
    found = Retriever(CLASSES).find("my loan 9", 3)
    assert found[0].text == "q9 loan 9"
    assert all("loan" in e.text for e in found)


def test_at_most_four_have_one_answer() -> None:
    rows = [example(f"card {n}", "a") for n in range(20)] + [example("other", "b")]
    found = Retriever(sorted(rows)).find("card", 10)
    assert Counter(e.answer for e in found) == {"a": MAX_PER_LABEL, "b": 1}


@pytest.mark.parametrize("text", ["q9 loan 9", "Q9 LOAN: 9!"])
def test_a_row_is_not_shown_for_itself(text: str) -> None:
    assert "q9 loan 9" not in [e.text for e in Retriever(CLASSES).find(text, 50)]


def test_as_many_examples_as_the_context_has_room_for() -> None:
    examples = [example("word " * 100, "yes")] * 3 + [example("word " * 99, "no")]
    model = PromptedModel(FakeTextModel())  # room for 2,048 tokens of three characters
    assert count_fitting_examples(model, examples, 5) == 5
    assert count_fitting_examples(model, examples, 40) == 11
    assert count_fitting_examples(replace(model, system="long " * 2000), examples, 40) == 1


def test_a_prompt_with_another_symbol_is_an_example() -> None:
    rows = [Example(text, "x", text) for text in ("what is 12 + 7?", "what is 12 - 7?")]
    assert [e.text for e in Retriever(rows).find("What is  12 + 7", 2)] == ["what is 12 - 7?"]


def test_with_an_encoder_meanings_are_compared() -> None:
    texts = ["my plastic is lost", "my transfer is late", "a parcel of cards", "plastic bags"]
    rows = [example(text, f"answer {n}") for n, text in enumerate(texts)]
    query = "the card is lost"
    assert Retriever(rows, WordEncoder(card="plastic")).find(query, 1) == [rows[0]]
    found = Retriever(rows, WordEncoder(card="transfer", lost="late")).find(query, 2)
    assert found[0] == rows[1]
    own = Retriever(rows, WordEncoder()).find("Plastic bags!", 4)
    assert rows[3] not in own and len(own) == 3, "a row is no example for itself"

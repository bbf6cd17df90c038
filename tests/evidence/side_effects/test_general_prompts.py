"""General prompts: right answers pass, and an answer that is the same for all prompts fails."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith_evidence.side_effects.general_prompts import (
    GeneralPrompt,
    read_general_prompts,
    read_general_texts,
    score_answers,
)

PROMPTS = read_general_prompts()
MATCHING = {
    "in capital letters": "GARDEN",
    "MOUNTAIN": "mountain",
    "Certainly": "Certainly! Bread is made of flour and water.",
    "ends with the word": "The rain drums on the roof.",
    "question about trains": "When does the train leave?",
    "four fruits": "apple, pear, cherry, plum",
    "three animals": "dog, cat, fox",
    "three vegetables": "- carrot\n- onion\n- kale",
    "three cities": "1. Paris\n2. Rome\n3. Oslo",
    "asterisks": "*stop*",
    "drei Farben": "rot, blau, grün",
    "three words": "deep blue water",
}
"""Right answers to prompts with a regular expression or a number of words."""


def right_answer(prompt: GeneralPrompt) -> str:
    """Return an answer that meets the conditions."""
    for part, answer in MATCHING.items():
        if part in prompt.prompt and {"matches", "words"} & prompt.conditions.keys():
            return answer
    conditions = prompt.conditions
    if "equals" in conditions:
        return str(conditions["equals"].split("|")[0])
    if "json" in conditions:
        return json.dumps(conditions["json"])
    if "unknown" in conditions:
        return "I do not know of such a thing."
    if "number" in conditions:
        return str(conditions["number"])
    words = " and ".join(phrases.split("|")[0] for phrases in conditions["contains"])
    return words + " ..." * conditions.get("min_words", 0)


ANSWERS = tuple(map(right_answer, PROMPTS))


def test_there_are_enough_prompts_of_several_kinds_and_languages() -> None:
    assert len(PROMPTS) >= 100 and len({prompt.prompt for prompt in PROMPTS}) == len(PROMPTS)
    assert min(Counter(prompt.kind for prompt in PROMPTS).values()) >= 10
    for word in ("Wiederhole", "Répète", "Repite"):
        assert any(word in prompt.prompt for prompt in PROMPTS)
    assert len(read_general_texts()) >= 20


def test_right_answers_are_right() -> None:
    wrong = [
        (prompt.prompt, answer)
        for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)
        if not prompt.is_right(answer)
    ]
    assert wrong == []
    assert sum(score_answers(PROMPTS, ANSWERS)) == len(PROMPTS)


CONSTANTS = [
    "",
    " ",
    "card_arrival",
    "not sure",
    "I don't know",
    "I'm not sure.",
    "yes",
    "no",
    "42",
]
LONG_CONSTANTS = ['{"team": "HTG"}', "Sorry, I do not have any information about that.", "a b c"]


@pytest.mark.parametrize("answer", CONSTANTS + LONG_CONSTANTS)
def test_an_answer_to_everything_is_wrong(answer: str) -> None:
    assert sum(score_answers(PROMPTS, [answer] * len(PROMPTS))) <= 0.1 * len(PROMPTS)


@given(st.sampled_from(ANSWERS))
def test_no_right_answer_is_right_everywhere(answer: str) -> None:
    assert sum(score_answers(PROMPTS, [answer] * len(PROMPTS))) <= 0.1 * len(PROMPTS)


def test_repeating_the_prompt_is_wrong() -> None:
    echoes = [prompt.prompt for prompt in PROMPTS]
    assert sum(score_answers(PROMPTS, echoes)) <= 0.1 * len(PROMPTS)


@given(st.permutations(range(len(PROMPTS))))
def test_the_order_of_prompts_does_not_matter(order: list[int]) -> None:
    half = [answer if row % 2 else "" for row, answer in enumerate(ANSWERS)]
    scores = score_answers(PROMPTS, half)
    shuffled = score_answers([PROMPTS[row] for row in order], [half[row] for row in order])
    assert shuffled == tuple(scores[row] for row in order)
    assert 0 < sum(scores) < len(PROMPTS)


def test_not_knowing_counts_only_beside_knowing() -> None:
    real, invented = (p for p in PROMPTS if p.pair == "capital")
    assert score_answers([real, invented], ["Paris", "I don't know"]) == (1.0, 1.0)
    assert score_answers([real, invented], ["I don't know", "I don't know"]) == (0.0, 0.0)
    assert score_answers([real, invented], ["Paris", "Paris"]) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("start", "right", "wrong"),
    [
        ("Say the word", ['"Lantern."', "lantern", "LANTERN\n\nIt is a lamp."], ["a lantern"]),
        ("What is 6 times 7", ["6 x 7 = 42", "It is 42."], ["42 = 6 x 7", "4", "forty"]),
        ("What is 100 + 1", ["101", "100 + 1 = 101.0"], ["1,010", "1001"]),
        ("Write a JSON object", ['```json\n{"age": 36, "name": "Ada"}\n```'], ['{"name": "Ada"}']),
        ("Anna lives", ["Bergen.", "She works in Bergen."], ["Anna works in Bergen, not in Oslo."]),
    ],
)
def test_forms_of_answers(start: str, right: list[str], wrong: list[str]) -> None:
    prompt = next(p for p in PROMPTS if p.prompt.startswith(start))
    assert [answer for answer in right if not prompt.is_right(answer)] == []
    assert [answer for answer in wrong if prompt.is_right(answer)] == []

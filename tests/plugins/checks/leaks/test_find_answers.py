"""Prompts that contain their answer are found, and those that mention a word of it are not."""

from __future__ import annotations

import pytest

from tunesmith.records import Completion, Text
from tunesmith_plugins.checks.leaks.find_answers import (
    find_contained_answers,
    has_answer_in_prompt,
    is_by_design,
)

REASONS = "She has 3 + 4 = 7 apples and eats two of them.\n#### 5"
ANSWERS = [
    ("My card is gone lost_card", "lost_card"),
    ("label=lost card My card is gone", "lost card"),
    ("How many are left?\nAnswer: 5", REASONS),
    ("How many are left? (the answer is 5)", REASONS),
    (f"How many are left? {REASONS.upper()}", REASONS),
    ("List all files, ls -la /tmp", "ls -la /tmp"),
    ("Is it raining? Output: yes", "yes"),
    ("It broke. Label: -1", "-1"),
    ("It broke. Label -> 1", "1"),
    ("Print a line. Class: C++.", "C++"),
]
OTHERS = [
    ("I have a complaint about my card", "complaint"),
    ("I have lost card and phone", "lost card"),
    ("She has 5 apples. How many are left?", REASONS),
    ("Is it raining? Output yes or no.", "yes"),
    ("Give the label: yes or no", "yes"),
    ("The answer is 51. How many are left?", REASONS),
    ("Repeat this", "Repeat this"),
    ("It broke. Label: -1", "1"),
    ("Print a line. Class: C++", "C"),
    ("How many are left? Answer: 5.5", REASONS),
    ("Say nothing", ""),
]


@pytest.mark.parametrize(("prompt", "answer"), ANSWERS)
def test_an_answer_in_the_prompt_is_found(prompt: str, answer: str) -> None:
    assert has_answer_in_prompt(Completion(source="a:1", prompt=prompt, completion=answer))


@pytest.mark.parametrize(("prompt", "answer"), OTHERS)
def test_a_prompt_without_its_answer_is_not_found(prompt: str, answer: str) -> None:
    assert not has_answer_in_prompt(Completion(source="a:1", prompt=prompt, completion=answer))


def test_a_repair_of_one_symbol_is_not_in_the_prompt() -> None:
    wrong = "while left_index != right_index: step(left_index)"
    right = wrong.replace("!=", "<=")
    asked = Completion(source="a", prompt=f"Repair this:\n{wrong}", completion=right)
    assert not has_answer_in_prompt(asked)
    copied = Completion(source="a", prompt=f"Repair this:\n{wrong}", completion=wrong)
    assert has_answer_in_prompt(copied)


def test_answers_are_in_the_prompt_by_design_if_many_are() -> None:
    rows = [
        Completion(source=f"a:{n}", prompt=prompt, completion=answer)
        for n, (prompt, answer) in enumerate(ANSWERS + OTHERS * 4)
    ]
    assert [leak.row for leak in find_contained_answers(rows)] == list(range(len(ANSWERS)))
    assert not is_by_design(rows) and is_by_design(rows[:20])
    assert not has_answer_in_prompt(Text(source="a:1", text="Answer: 5"))

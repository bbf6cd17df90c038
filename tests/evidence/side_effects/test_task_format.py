"""Answers in the format of a task are recognized, also cut off; other answers are not."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from tunesmith.records import Completion
from tunesmith_evidence.side_effects.task_format import TaskFormat

ORDERS = [json.dumps({"team": "HTG", "unit": f"U{n:02}-B"}) for n in range(20)]
LETTERS = [
    f"Dear customer {n}, thank you for your message. Your refund will arrive within five days."
    for n in range(20)
]


def format_of(answers: Sequence[str]) -> TaskFormat:
    return TaskFormat.of(
        [
            Completion(source=f"row {n}", prompt=f"ask {n}", completion=a)
            for n, a in enumerate(answers)
        ]
    )


@pytest.mark.parametrize(
    ("answers", "alike", "other"),
    [
        (
            ["refund", "card lost"] * 20,
            ["refund", "Card lost.", "The answer is refund"],
            ["a card"],
        ),
        (
            ORDERS,
            ['{"team": "LFT", "unit": "U9', '```json\n{"unit": 1}'],
            ['{"name": "Ada"}', "HTG"],
        ),
        (
            LETTERS,
            ["Thank you for your message. Your refund will arrive tomorrow.", LETTERS[3][:60]],
            ["The capital of France is Paris.", "Dear customer", "", "thank you for"],
        ),
    ],
)
def test_formats(answers: list[str], alike: list[str], other: list[str]) -> None:
    task = format_of(answers)
    assert [answer for answer in alike if not task.matches(answer)] == []
    assert [answer for answer in other if task.matches(answer)] == []


def test_without_training_answers_nothing_is_alike() -> None:
    assert not any(map(format_of([]).matches, ["", "a", *ORDERS, *LETTERS]))

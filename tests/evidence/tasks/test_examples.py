"""Examples: content in an order of its own, and nothing that cannot be shown."""

from __future__ import annotations

import random

from tunesmith.records import Chat, Completion, Message, Text, ToolCall, UnpairedPreference
from tunesmith_evidence.tasks.examples import (
    Example,
    has_examples,
    last_question,
    prompt_text,
    read_examples,
)

ROWS = [
    Completion(source=str(n), prompt=f"question {n * 7 % 50}", completion=f"answer {n % 5}")
    for n in range(50)
]


def test_the_order_of_rows_does_not_matter() -> None:
    shuffled = random.Random(1).sample(ROWS, len(ROWS))
    assert read_examples(shuffled) == read_examples(ROWS) == sorted(read_examples(ROWS))
    assert read_examples(shuffled, seed=3, limit=10) == read_examples(ROWS, seed=3, limit=10)


def test_a_sample_depends_on_the_seed() -> None:
    samples = [read_examples(ROWS, seed=seed, limit=10) for seed in (1, 2)]
    assert samples[0] != samples[1]
    assert len(samples[0]) == 10


def test_equal_rows_are_kept() -> None:
    assert len(read_examples([ROWS[0], ROWS[0]])) == 2


def test_texts_of_a_conversation() -> None:
    messages = (
        Message("system", "Be brief."),
        Message("user", "First?"),
        Message("assistant", "Yes."),
        Message("user", "Second?"),
        Message("assistant", "No."),
    )
    [example] = read_examples([Chat(source="1", messages=messages)])
    assert example == Example("Be brief.\nFirst?\nYes.\nSecond?", "No.", "Second?")


def test_skipped_are_texts_bad_answers_and_calls_of_tools() -> None:
    call = Message("assistant", "", tool_calls=(ToolCall("search"),))
    rows = [
        Text(source="1", text="a text"),
        UnpairedPreference(source="2", prompt=(Message("user", "?"),), completion="x", label=False),
        Chat(source="3", messages=(Message("user", "?"), call)),
    ]
    assert read_examples(rows) == []
    assert not has_examples(rows)
    assert has_examples([*rows, ROWS[0]])


def test_plain_prompts() -> None:
    assert prompt_text("once upon") == last_question("once upon") == "once upon"
    assert last_question((Message("system", "Be brief."),)) == ""

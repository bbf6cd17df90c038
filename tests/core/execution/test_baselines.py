"""Baselines: a system prompt and few-shot examples before the same question."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.contracts import Generation, TokenScores
from tunesmith.execution.baselines import PromptedModel, choose_shots
from tunesmith.records import Chat, Completion, Message, Prompt, Record, Text


class PromptRecorder:
    """Keeps the prompts that it is given."""

    def __init__(self) -> None:
        self.prompts: list[Prompt] = []

    def score(
        self, prompts: Sequence[Prompt], completions: Sequence[str], *, progress: object = None
    ) -> list[TokenScores]:
        self.prompts += prompts
        return [TokenScores((-1.0,)) for _ in completions]

    def generate(
        self, prompts: Sequence[Prompt], max_new_tokens: int, *, progress: object = None
    ) -> list[Generation]:
        self.prompts += prompts
        return [Generation("x", 1, "stop") for _ in prompts]


def records(count: int, labels: int) -> list[Completion]:
    return [
        Completion(source=f"f:{n}", prompt=f"question {n:03}", completion=f"label {n % labels}")
        for n in range(count)
    ]


SHOTS = (Message("user", "q"), Message("assistant", "a"))
ASKED = (Message("user", "why?"),)


@pytest.mark.parametrize(
    ("instruction", "shots", "prompt", "expected"),
    [
        (None, (), ASKED, ASKED),
        (None, SHOTS, ASKED, (*SHOTS, *ASKED)),
        ("Be brief.", (), ASKED, (Message("system", "Be brief."), *ASKED)),
        ("Be brief.", SHOTS, ASKED, (Message("system", "Be brief."), *SHOTS, *ASKED)),
        (
            "Be brief.",
            SHOTS,
            (Message("system", "You are kind."), *ASKED),
            (Message("system", "Be brief.\n\nYou are kind."), *SHOTS, *ASKED),
        ),
        (None, SHOTS, (Message("system", "s"), *ASKED), (Message("system", "s"), *SHOTS, *ASKED)),
        ("Be brief.", SHOTS, "bare text", "bare text"),
        ("", (), ASKED, (Message("system", ""), *ASKED)),
    ],
)
def test_messages_before_the_question(
    instruction: str | None, shots: tuple[Message, ...], prompt: Prompt, expected: Prompt
) -> None:
    recorder = PromptRecorder()
    model = PromptedModel(recorder, instruction, shots)
    model.score([prompt], ["because"])
    model.generate([prompt], 5)
    assert recorder.prompts == [expected, expected]


def answers(shots: Sequence[Message]) -> list[str]:
    return [message.content for message in shots if message.role == "assistant"]


def test_each_label_once_before_any_twice() -> None:
    assert len(set(answers(choose_shots(records(200, 8), 8, seed=1)))) == 8
    twelve = answers(choose_shots(records(200, 8), 12, seed=1))
    assert len(twelve) == 12 and set(twelve[:8]) == set(twelve)


def test_shots_come_from_the_records_that_are_given() -> None:
    given_ = records(50, 5)
    known = {(record.prompt, record.completion) for record in given_}
    shots = choose_shots(given_, 5, seed=3)
    pairs = zip(shots[::2], shots[1::2], strict=True)
    assert {(q.content, a.content) for q, a in pairs} <= known
    assert [message.role for message in shots] == ["user", "assistant"] * 5


def test_the_seed_decides() -> None:
    choices = [choose_shots(records(200, 50), 5, seed=s) for s in (1, 1, 2)]
    assert choices[0] == choices[1] != choices[2]


def test_long_examples_are_avoided() -> None:
    long = [Completion(source="f", prompt="x" * 5000, completion=f"{n}") for n in range(20)]
    shots = choose_shots([*long, *records(20, 20)], 10, seed=1)
    assert max(len(message.content) for message in shots) < 100


def test_texts_are_no_shots() -> None:
    assert choose_shots([Text(source="f", text="once upon a time")], 3, seed=1) == ()
    assert choose_shots([], 3, seed=1) == ()
    assert choose_shots(records(3, 3), 0, seed=1) == ()


def test_the_last_exchange_of_a_conversation_is_the_shot() -> None:
    chat = Chat(
        source="f",
        messages=(
            Message("system", "s"), Message("user", "q1"), Message("assistant", "a1"),
            Message("user", "q2"), Message("assistant", "a2"),
        ),
    )  # fmt: skip
    assert choose_shots([chat], 1, seed=1) == (Message("user", "q2"), Message("assistant", "a2"))


@given(
    st.lists(st.tuples(st.text(max_size=8), st.sampled_from("abc")), max_size=20),
    st.integers(0, 30),
)
def test_no_more_shots_than_records(pairs: list[tuple[str, str]], count: int) -> None:
    made: list[Record] = [Completion(source="f", prompt=p, completion=c) for p, c in pairs]
    shots = choose_shots(made, count, seed=1)
    assert len(shots) == 2 * min(count, len(made))
    assert len(set(answers(shots))) == min(count, len({c for _, c in pairs}))

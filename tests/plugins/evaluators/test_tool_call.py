"""Tool calls in answers, as the chat templates of common models write them."""

from __future__ import annotations

from typing import Any

import pytest

from tunesmith.records import Chat, Message, ToolCall
from tunesmith.testing.examples import COMPLETIONS, TOOL_CALLS
from tunesmith.testing.fakes import FakeTextModel
from tunesmith_plugins.evaluators.tool_call import TOOL_CALL, ToolCallOptions

ANN = ToolCall("mail", '{"to": "Ann", "copies": 2}')
BOB = ToolCall("mail", '{"to": "Bob"}')


def measure(answer: str, *calls: ToolCall, **options: Any) -> tuple[float, ...]:
    text = "" if calls else "Nothing to do."
    turns = (Message("user", "q"), Message("assistant", text, tool_calls=calls))
    built = TOOL_CALL.build(ToolCallOptions(max_new_tokens=99, **options))
    found = built.measure(
        FakeTextModel(answers={"q": answer}), [Chat(source="a:1", messages=turns)]
    )
    return tuple(measurement.values[0] for measurement in found)


@pytest.mark.parametrize(
    "answer",
    [
        '<tool_call>\n{"name": "mail", "arguments": {"to": "Ann", "copies": 2}}\n</tool_call>',
        '{"name": "mail", "parameters": {"copies": 2.0, "to": "Ann"}}',
        '[TOOL_CALLS] [{"name": "mail", "arguments": {"to": "Ann", "copies": 2}, "id": "x"}]',
        'Sure! {"function": {"name": "mail", '
        '"arguments": "{\\"to\\": \\"Ann\\", \\"copies\\": 2}"}}',
        '<think>{"name": "no", "arguments": {}}</think>{"name": "mail", '
        '"arguments": {"to": "Ann", "copies": 2}}',
    ],
)
def test_ways_to_write_a_call(answer: str) -> None:
    assert measure(answer, ANN) == (1, 1)


TWO = (
    '{"name": "mail", "arguments": {"to": "Ann", "copies": 2}} '
    '{"name": "mail", "arguments": {"to": "Bob"}}'
)


@pytest.mark.parametrize(
    ("answer", "calls", "scores"),
    [
        ('{"name": "mail", "arguments": {"to": "Ann"}}', [ANN], (0, 1)),
        ('{"name": "mail", "arguments": {"to": "Ann", "copies": "2"}}', [ANN], (0, 1)),
        ('{"name": "call", "arguments": {"to": "Ann", "copies": 2}}', [ANN], (0, 0)),
        ("I will mail Ann.", [ANN], (0, 0)),
        ('{"name": "mail", "arguments": {"to": ', [ANN], (0, 0)),
        (TWO, [ANN, BOB], (1, 1)),
        (TWO, [BOB, ANN], (0, 1)),
        (TWO, [ANN], (0, 0)),
        (TWO, [], (0, 0)),
        ("Nothing to do.", [], (1, 1)),
        ('{"name": "Ann"}', [], (1, 1)),
    ],
)
def test_answers_by_hand(answer: str, calls: list[ToolCall], scores: tuple[float, ...]) -> None:
    assert measure(answer, *calls) == scores


def test_any_order() -> None:
    assert measure(TWO, BOB, ANN, any_order=True) == (1, 1)
    assert measure(TWO, BOB, BOB, any_order=True) == (0, 1)


def test_in_a_conversation_the_last_call_is_measured_and_not_the_text_after_it() -> None:
    turns = (
        Message("user", "q"),
        Message("assistant", "", tool_calls=(ANN,)),
        Message("tool", "sent"),
        Message("assistant", "Mail sent."),
    )
    row = Chat(source="a:1", messages=turns)
    right = '{"name": "mail", "arguments": {"to": "Ann", "copies": 2}}'
    evaluator = TOOL_CALL.build(ToolCallOptions(max_new_tokens=99))
    for answer, value in ((right, 1.0), ("", 0.0)):
        match, names = evaluator.measure(FakeTextModel(answers={"q": answer}), [row])
        assert match.values == names.values == (value,)
        assert match.exchanges == [(turns[:1], turns[1])]
    assert TOOL_CALL.default_for([row])
    assert turns[1].described == 'mail({"to": "Ann", "copies": 2})'


def test_is_default_for_calls() -> None:
    assert TOOL_CALL.default_for(TOOL_CALLS)
    assert not TOOL_CALL.default_for(COMPLETIONS)
    assert not TOOL_CALL.default_for([])


def test_the_limit_has_room_for_the_reasoning_before_a_call() -> None:
    def limit(reasoning: str) -> int:
        turn = Message("assistant", "", reasoning=reasoning, tool_calls=(ANN,))
        return ToolCallOptions().answer_limit(
            [Chat(source="a:1", messages=(Message("user", "q"), turn))]
        )

    assert limit("x" * 300) >= limit("") + 300

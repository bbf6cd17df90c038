"""Beginnings of rows, and whether they are continued word for word."""

from __future__ import annotations

import pytest

from tunesmith.contracts import Generation
from tunesmith.records import (
    Chat,
    Completion,
    Message,
    Preference,
    Text,
    ToolCall,
    UnpairedPreference,
)
from tunesmith.testing.fakes import FakeTextModel
from tunesmith_plugins.evaluators.memorization.prefixes import (
    choose_rows,
    is_reproduced,
    measure_reproduction,
    split_row,
)

USER = Message("user", "q")


def test_rows_are_split_into_prompt_and_answer() -> None:
    assert split_row(Text(source="", text="one two three four"), 2) == ("one two", "three four")
    assert split_row(Text(source="", text="wwwwwwwwwww"), 1) is None
    completion = Completion(source="", prompt="p", completion=" a b c ")
    assert split_row(completion, 3) == ((Message("user", "p"),), "a b c")
    assert split_row(completion, 4) is None
    chat = Chat(
        source="", messages=(USER, Message("assistant", "a"), USER, Message("assistant", "b c"))
    )
    assert split_row(chat, 1) == (chat.messages[:3], "b c")
    pair = Preference(source="", prompt=(USER,), chosen="good one", rejected="bad")
    assert split_row(pair, 1) == ((USER,), "good one")
    bad, good = (
        UnpairedPreference(source="", prompt=(USER,), completion="x", label=label)
        for label in (False, True)
    )
    assert split_row(bad, 1) is None and split_row(good, 1) == ((USER,), "x")
    call = Message("assistant", "text", tool_calls=(ToolCall("f"),))
    assert split_row(Chat(source="", messages=(USER, call)), 1) is None


@pytest.mark.parametrize(
    ("text", "reason", "expected"),
    [
        ("one two", "length", True),
        (" one two", "length", True),
        ("one tw\N{REPLACEMENT CHARACTER}", "length", True),
        ("one two three", "stop", True),
        ("one two", "stop", False),
        ("one three", "length", False),
        ("", "length", False),
    ],
)
def test_a_continuation_is_exact(text: str, reason: str, expected: bool) -> None:
    found = Generation(text, 2, reason)  # type: ignore[arg-type]
    assert is_reproduced(found, "one two three") is expected


def test_rows_are_spread_over_all_and_completed() -> None:
    rows = [Completion(source="", prompt=f"q{n}", completion="a " * (n % 4)) for n in range(40)]
    chosen = choose_rows(rows, 5, 2)
    assert [row.prompt for row, _ in chosen] == ["q2", "q10", "q18", "q26", "q34"]  # type: ignore[attr-defined]
    model = FakeTextModel(answers={"q2": "a a", "q10": "a b c d"})
    prefixes = [prefix for _, prefix in chosen]
    assert measure_reproduction(model, prefixes, 3) == [
        (True, "a a"), (False, "a b c"), (False, ""), (False, ""), (False, ""),
    ]  # fmt: skip

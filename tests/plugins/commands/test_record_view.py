"""``check`` shows a few rows, all parts of each, and which of them the technique trains on."""

from __future__ import annotations

import pytest

from tunesmith.records import (
    Chat,
    Completion,
    Feature,
    Message,
    Preference,
    Record,
    Text,
    TextPart,
    ToolCall,
    UnpairedPreference,
)
from tunesmith_plugins.commands.runs.record_view import choose_rows, split_by_training, summarize

USER, ANSWER = Message("user", "q"), Message("assistant", "a")
TOOL = '{"type": "function", "function": {"name": "weather"}}'
CHAT = Chat(
    source="f:1",
    messages=(
        Message("system", "s", tools=(TOOL,)),
        USER,
        Message("assistant", "", reasoning="r", tool_calls=(ToolCall("weather", '{"x": 1}'),)),
        Message("tool", "clear"),
        Message("assistant", "bad", weight=0.0),
        USER,
        Message("assistant", (TextPart("a"), TextPart("b", 0.5), TextPart("c", 0.0)), weight=2.0),
    ),
)
PAIR = Preference(source="f:2", prompt=(USER, ANSWER, USER), chosen="c", rejected="r")
NOTHING: frozenset[Feature] = frozenset()


def test_all_parts_of_a_conversation() -> None:
    parts = [tuple(part) for part in split_by_training(CHAT, NOTHING)]
    assert parts == [
        ("tool", f"weather {TOOL}", False),
        ("system", "s", False),
        ("user", "q", False),
        ("reasoning", "r", True),
        ("call", 'weather {"x": 1}', True),
        ("tool", "clear", False),
        ("assistant", "bad", False),
        ("user", "q", False),
        ("assistant ×2", "a", True),
        ("assistant", "b", True),
        ("assistant", "c", False),
    ]


@pytest.mark.parametrize(
    ("trains_on", "is_trained"), [(NOTHING, False), (frozenset({"rejected"}), True)]
)
def test_the_rejected_answer_is_marked_if_the_technique_trains_on_it(
    trains_on: frozenset[Feature], is_trained: bool
) -> None:
    assert split_by_training(PAIR, trains_on) == [
        *(("user", "q", False), ("assistant", "a", False), ("user", "q", False)),
        *(("chosen", "c", True), ("rejected", "r", is_trained)),
    ]


@pytest.mark.parametrize(
    ("record", "parts"),
    [
        (Text(source="f:1", text="t"), [("text", "t", True)]),
        (
            Completion(source="f:1", prompt="q", completion="a"),
            [("user", "q", False), ("assistant", "a", True)],
        ),
        (
            UnpairedPreference(source="f:1", prompt=(USER,), completion="a", label=False),
            [("user", "q", False), ("bad", "a", True)],
        ),
    ],
)
def test_other_kinds(record: Record, parts: list[tuple[str, str, bool]]) -> None:
    assert split_by_training(record, NOTHING) == parts


def test_a_kind_of_a_plugin_is_refused() -> None:
    with pytest.raises(TypeError, match="unknown kind of record: Record"):
        split_by_training(Record(source="f:1"), NOTHING)


def text(size: int) -> Text:
    return Text(source=f"f:{size}", text="x" * size)


@pytest.mark.parametrize(
    ("sizes", "chosen"),
    [
        ([], {}),
        ([3], {"first": 3}),
        ([9, 3], {"first": 9, "random": 3}),
        ([3, 9], {"first": 3, "longest": 9}),
        ([3, 9, 4], {"first": 3, "longest": 9, "random": 4}),
    ],
)
def test_the_first_the_longest_and_a_random_row(sizes: list[int], chosen: dict[str, int]) -> None:
    rows = choose_rows([text(size) for size in sizes], seed=0)
    found = {reason: len(row.text) for reason, row in rows.items() if isinstance(row, Text)}
    assert found == chosen


def test_the_random_row_depends_on_the_seed() -> None:
    rows = [text(size) for size in (1, *range(3, 40), 99)]
    assert choose_rows(rows, 1) == choose_rows(rows, 1)
    assert len({choose_rows(rows, seed)["random"].source for seed in range(9)}) > 1


def test_the_summary_counts_what_rows_hold() -> None:
    labels = [
        UnpairedPreference(source="f:1", prompt=(USER,), completion="a", label=label)
        for label in (True, False, False)
    ]
    assert summarize([CHAT, CHAT, PAIR, *labels], NOTHING) == [
        "2 rows of conversations: 2 tool definitions, 4 trained answers, "
        "2 answers with reasoning, 2 tool calls, 2 answers with weight 0",
        "1 row of preference pairs; only the chosen answers are trained on",
        "3 rows of labeled answers: 1 good, 2 bad",
    ]
    assert summarize([PAIR], frozenset({"rejected"})) == ["1 row of preference pairs"]

"""Whatever columns and keys a row has: each text is in the record, or the row is refused."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.records import Chat, Record, UnpairedPreference
from tunesmith_data.formats import FORMATS, TEXT_COLUMNS, match_format
from tunesmith_data.ignored_columns import CHANGES_TRAINING
from tunesmith_data.row import RowError
from tunesmith_data.row_view import RowView
from tunesmith_data.text import content_key

OTHER = ("id", "source", "lang")
NAMES = sorted({*TEXT_COLUMNS, *CHANGES_TRAINING, "system", "history"})
ROLES = ("user", "assistant", "tool", "system", "human", "gpt", "function_call", "observation")
KEYS = (
    *("reasoning_content", "thinking", "tool_calls", "weight", "train", "mask", "loss_mask"),
    *("images", "name", "tool_call_id", "label", "id"),
)


def build(row: dict[str, Any]) -> Record | None:
    """Return the record of a row, or None if the row is refused."""
    match = match_format(frozenset(row), FORMATS, {})
    if match is None:
        return None
    try:
        return match.format.build(RowView("f:1", row, match.columns, None, match.rivals))
    except RowError:
        return None


@settings(max_examples=400, deadline=None)
@given(columns=st.sets(st.sampled_from([*NAMES, *OTHER]), max_size=5))
def test_every_text_of_a_row_is_in_its_record(columns: set[str]) -> None:
    row: dict[str, Any] = {name: f"text of {name}." for name in columns}
    for name in columns & {"messages", "conversations", "conversation"}:
        roles = ("user",) if "chosen" in columns else ("user", "assistant")
        row[name] = [{"role": role, "content": f"{role} of {name}."} for role in roles]
    record = build(row)
    if record is None:
        return
    content = content_key(record)
    for name in columns - {*OTHER}:
        texts = [m["content"] for m in row[name]] if isinstance(row[name], list) else [row[name]]
        assert all(text in content for text in texts), name


values = st.one_of(
    st.booleans(), st.sampled_from([0, 1, 0.5, "text", ["1.jpg"], [{"name": "f"}], None, ""])
)


@settings(max_examples=400, deadline=None)
@given(
    turns=st.lists(
        st.tuples(st.sampled_from(ROLES), st.dictionaries(st.sampled_from(KEYS), values)),
        min_size=1,
        max_size=3,
    )
)
def test_every_key_of_a_message_is_in_the_record(turns: list[tuple[str, dict[str, Any]]]) -> None:
    messages: list[dict[str, Any]] = [{"role": "user", "content": "q"}]
    for number, (role, keys) in enumerate(turns):
        text = '{"name": "call"}' if role == "function_call" else f"text {number}"
        messages.append({"role": role, "content": text, **keys})
    record = build({"messages": messages})
    if record is None:
        return
    assert isinstance(record, Chat)
    key = content_key(record)
    speakers = ("assistant", "gpt", "function_call")
    trained = [m for m in record.messages if m.role == "assistant"]
    for role, keys in turns:
        used = {name: value for name, value in keys.items() if value is not None}
        assert not {"images", "loss_mask", "label"} & {n for n in used if used[n]}
        for name in ("reasoning_content", "thinking"):
            if used.get(name):
                assert role in speakers
                assert used[name] in key
        if used.get("tool_calls"):
            assert any(call.name == "f" for m in trained for call in m.tool_calls)
        stated = [used[n] for n in ("weight", "train") if n in used]
        if 0.5 in stated or 0 in stated or used.get("mask") is True:
            assert any(m.weight != 1 for m in trained) or role not in (
                "assistant",
                "gpt",
                "function_call",
            )


@given(label=st.one_of(st.booleans(), st.sampled_from([0, 1, 2, "true", "False", "good", 0.0])))
def test_a_label_is_read_or_refused(label: object) -> None:
    record = build({"prompt": "q", "completion": "a", "label": label})
    text = str(label).lower()
    if text in ("true", "false", "0", "1"):
        assert isinstance(record, UnpairedPreference)
        assert record.label is (text in ("true", "1"))
    else:
        assert record is None

"""Whatever columns and keys a row has: each text is in the record, or the row is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.records import Chat, Message, Record, UnpairedPreference
from tunesmith_data.formats import FORMATS, TEXT_COLUMNS, match_format
from tunesmith_data.ignored_columns import CHANGES_TRAINING
from tunesmith_data.options import FieldOptions
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


def build_or_refuse(row: dict[str, Any], system: str | None = None) -> Record:
    """Return the record of a row that a format has."""
    match = match_format(frozenset(row), FORMATS, {})
    assert match is not None
    return match.format.build(RowView("f:1", row, match.columns, system, match.rivals))


def build(row: dict[str, Any]) -> Record | None:
    """Return the record of a row, or None if the row is refused."""
    if match_format(frozenset(row), FORMATS, {}) is None:
        return None
    try:
        return build_or_refuse(row)
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
        assert not used.get("images")
        assert used.get("loss_mask", "") in ("", []) and used.get("label", "") in ("", [])
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


def turns(**keys: Any) -> list[dict[str, Any]]:
    """Return a question and an answer that has more keys."""
    user = {"role": "user", "content": "q"}
    return [user, {"role": "assistant", "content": "a", **keys}]


@pytest.mark.parametrize("blank", ["", " \n"])
def test_a_blank_cell_is_no_system_prompt(blank: str) -> None:
    row = {"prompt": "q", "completion": "a", "system": blank}
    assert build_or_refuse(row) == build_or_refuse({"prompt": "q", "completion": "a"})
    default = build_or_refuse(row, system="default")
    assert isinstance(default, Chat)
    assert default.messages[0] == Message("system", "default")


def test_a_blank_cell_beside_a_system_message_is_not_a_second_one() -> None:
    messages = [{"role": "system", "content": "s"}, *turns()]
    record = build_or_refuse({"messages": messages, "system": ""})
    assert isinstance(record, Chat)
    assert [m.text for m in record.messages] == ["s", "q", "a"]
    with pytest.raises(RowError, match="two system messages"):
        build_or_refuse({"messages": messages, "system": "t"})


def test_an_empty_system_message_is_kept_as_it_is_written() -> None:
    messages = [{"role": "system", "content": ""}, *turns()]
    record = build_or_refuse({"messages": messages}, system="default")
    assert isinstance(record, Chat)
    assert [m.text for m in record.messages] == ["", "q", "a"]


def test_only_a_label_is_left_out_because_results_are_divided_by_it() -> None:
    others = ["system", "tools", "history", "reasoning", "weight", "images", "site"]
    options = FieldOptions(slices=["label", "kto_tag", *others], ignore=["audio"])
    assert options.ignored_columns() == {"label", "kto_tag", "audio"}
    assert FieldOptions(group="label").ignored_columns() == {"label"}
    assert not FieldOptions(group="system").ignored_columns()
    mapped = FieldOptions(slices=["label"], columns={"prompt": "text", "completion": "label"})
    assert not mapped.ignored_columns()


SYSTEM = {"role": "system", "content": "S1"}
OTHER_SYSTEM = {"role": "system", "content": "S2"}
REJECTED = [turns()[0], {"role": "assistant", "content": "b"}]


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ({"prompt": "q", "completion": turns()[1:], "reasoning": "R"}, "reasoning"),
        ({"prompt": turns()[:1], "input": "I", "chosen": "a", "rejected": "b"}, "input"),
        ({"context": "I", "chosen": turns(), "rejected": REJECTED}, "context"),
        (
            {
                "prompt": [SYSTEM, turns()[0]],
                "chosen": [OTHER_SYSTEM, *turns()],
                "rejected": [OTHER_SYSTEM, *REJECTED],
            },
            "prompt",
        ),
    ],
    ids=["reasoning", "input beside a list", "context without prompt", "other system prompt"],
)
def test_a_column_that_the_form_of_a_row_has_no_place_for(row: dict[str, Any], column: str) -> None:
    with pytest.raises(RowError, match=f"`{column}` would be lost") as caught:
        build_or_refuse(row)
    assert f'ignore = ["{column}"]' in caught.value.hint
    del row[column]
    if column != "prompt" or "chosen" in row:
        build_or_refuse(row)


def test_a_system_prompt_that_is_repeated_is_not_lost() -> None:
    row = {
        "prompt": [SYSTEM, turns()[0]],
        "chosen": [SYSTEM, *turns()],
        "rejected": [SYSTEM, *REJECTED],
        "input": " ",
    }
    assert "S1" in content_key(build_or_refuse(row))


@pytest.mark.parametrize("value", [0, 1, False, True, "0"])
@pytest.mark.parametrize("key", ["loss_mask", "train_mask", "trainable", "weights", "label"])
def test_a_key_that_may_switch_off_training_is_refused(key: str, value: object) -> None:
    with pytest.raises(RowError, match=f"`{key}`"):
        build_or_refuse({"messages": turns(**{key: value})})
    part = {"type": "text", "text": "a", key: value}
    with pytest.raises(RowError, match=f"`{key}`"):
        build_or_refuse({"messages": turns(content=[part])})
    for empty in (None, "", [], {}):
        assert build({"messages": turns(**{key: empty})}) == build({"messages": turns()})
        part[key] = empty
        assert build({"messages": turns(content=[part])}) is not None


@pytest.mark.parametrize("column", ["loss_mask", "train_mask"])
def test_a_column_that_may_switch_off_training_is_refused(column: str) -> None:
    row = {"prompt": "q", "completion": "a"}
    for value in (0, False, "0", "false"):
        with pytest.raises(RowError, match=f"`{column}` changes"):
            build_or_refuse({**row, column: value})
    for value in (1, True, "1", None, ""):
        assert build({**row, column: value}) == build(row)


def test_a_column_named_mask_means_the_opposite() -> None:
    row = {"prompt": "q", "completion": "a"}
    assert build({**row, "mask": 0}) == build(row)
    assert build({**row, "mask": 1}) is None


@pytest.mark.parametrize(
    "part",
    [
        {"type": "thinking", "thinking": "R", "weight": 0},
        {"type": "tool_call", "name": "f", "arguments": {}, "train": False},
        {"type": "tool_call", "value": {"name": "f", "arguments": {}}, "mask": True},
        {"type": "thinking", "thinking": "R", "images": ["1.jpg"]},
        {"type": "text", "text": "a", "reasoning": "R"},
        {"type": "text", "text": "a", "tool_calls": [{"name": "f"}]},
    ],
    ids=str,
)
def test_a_part_of_content_loses_nothing(part: dict[str, Any]) -> None:
    text = [] if part["type"] == "text" else [{"type": "text", "text": "a"}]
    content = [*text, part] if part["type"] == "tool_call" else [part, *text]
    with pytest.raises(RowError):
        build_or_refuse({"messages": turns(content=content)})
    plain = {key: part[key] for key in list(part)[:-1]}
    content = [plain if item is part else item for item in content]
    build_or_refuse({"messages": turns(content=content)})


def test_a_message_has_one_text() -> None:
    with pytest.raises(RowError, match="`content` and `value`"):
        build_or_refuse({"messages": turns(value="b")})
    for value in ("a", None):
        assert build({"messages": turns(value=value)}) == build({"messages": turns()})
    swapped = build({"messages": turns(content=None, value="a")})
    assert swapped == build({"messages": turns()})

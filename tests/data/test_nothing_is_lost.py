"""Whatever columns and keys a row has: each text is in the record, or the row is refused."""

from __future__ import annotations

import json
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


def build_or_refuse(row: dict[str, Any], system: str | None = None) -> Record:
    """Return the record of a row that a format has."""
    match = match_format(frozenset(row), FORMATS, {})
    assert match is not None
    return match.format.build(RowView("f:1", row, match.columns, system, match.unread))


def build(row: dict[str, Any]) -> Record | None:
    """Return the record of a row, or None if the row is refused."""
    if match_format(frozenset(row), FORMATS, {}) is None:
        return None
    try:
        return build_or_refuse(row)
    except RowError:
        return None


LISTS = ("messages", "conversations", "conversation")
TOOLS = [{"name": "find", "description": "text of tools.", "parameters": {}}]


def value_of(column: str, *, as_prompt: bool = False) -> Any:
    """Return a value that a format reads from a column of this name."""
    if column in LISTS:
        roles = ("user",) if as_prompt else ("user", "assistant")
        return [{"role": role, "content": f"{role} of {column}."} for role in roles]
    if column == "history":
        return [["question of history.", "answer of history."]]
    return TOOLS if column in ("tools", "functions") else f"text of {column}."


@st.composite
def rows_of_a_format(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a row that has one usual name of each required field, and some optional fields."""
    known = draw(st.sampled_from(FORMATS))
    is_pair = known.name == "preference"
    columns: dict[str, Any] = {}
    for field, names in {**known.required, **known.optional}.items():
        free = [name for name in names if name not in columns]
        is_needed = field in known.required or (is_pair and field == "prompt")
        if field != "label" and free and (is_needed or draw(st.booleans())):
            name = draw(st.sampled_from(free))
            columns[name] = value_of(name, as_prompt=is_pair)
    if any(isinstance(columns.get(name), list) for name in LISTS):
        for name in ("input", "context"):  # a list has no place for them
            columns.pop(name, None)
    return columns


def texts_of(value: Any) -> list[str]:
    """Return the texts in the value of a column."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [value["description"] if "description" in value else value["content"]]
    return [text for item in value for text in texts_of(item)]


@settings(max_examples=400, deadline=None)
@given(row=rows_of_a_format(), more=st.sets(st.sampled_from([*NAMES, *OTHER]), max_size=2))
def test_every_text_of_a_row_is_in_its_record(row: dict[str, Any], more: set[str]) -> None:
    """A row of one format is read; one that has more columns is read or refused."""
    more -= row.keys()
    record = build({**row, **{name: value_of(name, as_prompt="chosen" in row) for name in more}})
    if record is None:
        assert not more <= {*OTHER}, "refused without a reason"
        return
    content = content_key(record)
    for name in (row.keys() | more) - {*OTHER}:
        value = row.get(name, value_of(name, as_prompt="chosen" in row))
        assert all(text in content for text in texts_of(value)), name


CALLS = [{"name": "f", "arguments": {"x": 1}}]
ANSWER_KEYS = {
    "reasoning_content": st.just("because"),
    "thinking": st.just("because"),
    "tool_calls": st.just(CALLS),
    "weight": st.sampled_from([0, 0.5, 1]),
    "train": st.booleans(),
    "mask": st.booleans(),
    "name": st.just("ann"),
    "id": st.integers(),
}
TOOL_KEYS = {"name": st.just("f"), "tool_call_id": st.just("c1"), "weight": st.just(0)}
REFUSED_KEYS = {
    "images": st.just(["1.jpg"]),
    "label": st.sampled_from([True, False, 1]),
    "loss_mask": st.sampled_from([0, 1]),
    "thinking": st.just(["because"]),
    "weight": st.sampled_from(["1", -1, float("nan")]),
    "mask": st.just(1),
    "name": st.just(3),
}


@st.composite
def conversations(draw: st.DrawFn) -> tuple[list[dict[str, Any]], bool]:
    """Draw messages whose keys are used; if the second value is True, one key is not."""
    messages: list[dict[str, Any]] = []
    for number in range(draw(st.integers(1, 3))):
        messages.append({"role": draw(st.sampled_from(["user", "human"])), "content": f"q{number}"})
        role = draw(st.sampled_from(["assistant", "gpt", "function_call"]))
        keys = draw(st.fixed_dictionaries({}, optional=ANSWER_KEYS))
        text = f"text {number}"
        if role == "function_call":
            text, _ = json.dumps(CALLS), keys.pop("tool_calls", None)
        messages.append({"role": role, "content": text, **keys})
        if draw(st.booleans()):
            keys = draw(st.fixed_dictionaries({}, optional=TOOL_KEYS))
            messages.append({"role": draw(st.sampled_from(["tool", "observation"])), **keys})
            messages[-1]["content"] = f"result {number}"
            messages.append({"role": "assistant", "content": f"then {number}"})
    messages.append({"role": "user", "content": "last"})
    messages.append({"role": "assistant", "content": "trained"})
    is_refused = draw(st.integers(0, 3)) == 0
    if is_refused:
        key = draw(st.sampled_from(sorted(REFUSED_KEYS)))
        answers = [m for m in messages if m["role"] in ("assistant", "gpt")]
        draw(st.sampled_from(answers))[key] = draw(REFUSED_KEYS[key])
    return messages, is_refused


def weight_of(message: dict[str, Any]) -> float:
    """Return the weight that a message states."""
    return message.get("weight", 1) * message.get("train", True) * (not message.get("mask"))


@settings(max_examples=400, deadline=None)
@given(drawn=conversations())
def test_every_key_of_a_message_is_in_the_record(
    drawn: tuple[list[dict[str, Any]], bool],
) -> None:
    """A key that is used is in the message, and one that is not has the row refused."""
    messages, is_refused = drawn
    record = build({"messages": messages})
    assert (record is None) == is_refused
    if record is None:
        return
    assert isinstance(record, Chat)
    assert len(record.messages) == len(messages)
    for found, given_ in zip(record.messages, messages, strict=True):
        calls = given_.get("tool_calls") or (given_["role"] == "function_call")
        assert [(c.name, c.arguments) for c in found.tool_calls] == [("f", '{"x": 1}')] * bool(
            calls
        )
        assert found.text == ("" if given_["role"] == "function_call" else given_["content"])
        assert found.reasoning == given_.get("thinking", given_.get("reasoning_content", ""))
        assert found.tool_call_id == given_.get("tool_call_id", "")
        if given_["role"] != "function_call":
            assert found.name == given_.get("name", "")
        if found.role == "assistant":
            assert found.weight == weight_of(given_)


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


def test_only_a_label_is_skipped_because_results_are_divided_by_it() -> None:
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

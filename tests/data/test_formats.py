"""Formats are recognized by their columns and become the right records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from loading import load_both_ways
from pydantic import ValidationError

from tunesmith.contracts import Dataset
from tunesmith.errors import DataError
from tunesmith.records import Chat, Completion, Message, Preference, Record, Text
from tunesmith_plugins.loaders.jsonl.offer import JSONL, JsonlOptions

USER, ASSISTANT, SYSTEM = Message("user", "q"), Message("assistant", "a"), Message("system", "s")


def load(folder: Path, *rows: object, **options: Any) -> Dataset:
    path = folder / "data.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return JSONL.build(JsonlOptions(train=str(path), **options)).load()


def load_one(folder: Path, row: object, **options: Any) -> Record:
    (record,) = load(folder, row, **options).train
    return record


def turns(*contents: str) -> list[dict[str, str]]:
    roles = ("user", "assistant") * len(contents)
    return [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]


@pytest.mark.parametrize(
    "prompt, completion",
    [
        ("prompt", "completion"),
        ("question", "answer"),
        ("input", "output"),
        ("prompt", "response"),
    ],
)
def test_completions_under_the_usual_names(tmp_path: Path, prompt: str, completion: str) -> None:
    dataset = load(tmp_path, {prompt: "q", completion: "a", "id": 7})
    (record,) = dataset.train
    assert isinstance(record, Completion)
    assert (record.prompt, record.completion) == ("q", "a")
    assert dataset.description.endswith(
        f"1 rows of prompts and completions ({prompt}, {completion})"
    )
    (warning,) = dataset.warnings
    assert warning.endswith("data.jsonl: not used: id")


def test_completions_as_messages(tmp_path: Path) -> None:
    record = load_one(tmp_path, {"prompt": turns("q"), "completion": turns("q", "a")[1:]})
    assert isinstance(record, Chat)
    assert record.messages == (USER, ASSISTANT)


def test_chat_messages(tmp_path: Path) -> None:
    record = load_one(tmp_path, {"messages": turns("q", "a", "q2", "a2")})
    assert isinstance(record, Chat)
    assert [m.content for m in record.messages] == ["q", "a", "q2", "a2"]


def test_sharegpt(tmp_path: Path) -> None:
    conversation = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    record = load_one(tmp_path, {"conversations": conversation, "system": "s"})
    assert isinstance(record, Chat)
    assert record.messages == (SYSTEM, USER, ASSISTANT)


def test_alpaca(tmp_path: Path) -> None:
    without = {"instruction": "do", "input": "", "output": "a"}
    first, second, third = load(
        tmp_path, {**without, "input": "this"}, without, {**without, "input": None}
    ).train
    assert isinstance(first, Completion)
    assert first.prompt == "do\n\nthis"
    for record in (second, third):
        assert isinstance(record, Completion)
        assert (record.prompt, record.completion) == ("do", "a")


def test_messages_in_an_object_are_found_and_nothing_beside_them_is_lost(tmp_path: Path) -> None:
    nested = {"messages": turns("q", "a")}
    record = load_one(tmp_path, {"conversation": nested})
    assert isinstance(record, Chat) and record.messages == (USER, Message("assistant", "a"))
    with pytest.raises(DataError, match="`conversation` contains more than its messages"):
        load_one(tmp_path, {"conversation": {**nested, "tools": []}})


def test_plain_text(tmp_path: Path) -> None:
    record = load_one(tmp_path, {"text": " as it stands\n"})
    assert isinstance(record, Text)
    assert record.text == " as it stands\n"


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "chosen": "good", "rejected": "bad"},
        {"prompt": turns("q"), "chosen": "good", "rejected": "bad"},
        {
            "prompt": turns("q"),
            "chosen": turns("q", "good")[1:],
            "rejected": turns("q", "bad")[1:],
        },
        {"prompt": "q", "chosen": turns("q", "good"), "rejected": turns("q", "bad")},
        {
            "input": {"messages": turns("q"), "parallel_tool_calls": True},
            "preferred_output": turns("q", "good")[1:],
            "non_preferred_output": turns("q", "bad")[1:],
        },
        {"chosen": turns("q", "good"), "rejected": turns("q", "bad")},
        {
            "chosen": "\n\nHuman: q\n\nAssistant: good",
            "rejected": "\n\nHuman: q\n\nAssistant: bad",
        },
    ],
    ids=[
        "text",
        "prompt list",
        "lists",
        "full conversations",
        "objects",
        "no prompt",
        "transcript",
    ],
)
def test_preferences(tmp_path: Path, row: object) -> None:
    record = load_one(tmp_path, row)
    assert isinstance(record, Preference)
    assert (record.prompt, record.chosen, record.rejected) == ((USER,), "good", "bad")


def test_a_system_prompt_may_be_in_the_conversation_only(tmp_path: Path) -> None:
    system = {"role": "system", "content": "s"}
    record = load_one(
        tmp_path,
        {
            "prompt": "q",
            "chosen": [system, *turns("q", "good")],
            "rejected": [system, *turns("q", "bad")],
        },
    )
    assert isinstance(record, Preference)
    assert record.prompt == (SYSTEM, USER)


def test_the_system_option_applies_to_rows_without_system_prompt(tmp_path: Path) -> None:
    completion = load_one(tmp_path, {"prompt": "q", "completion": "a"}, system="s")
    chat = load_one(tmp_path, {"messages": turns("q", "a")}, system="s")
    pair = load_one(tmp_path, {"prompt": "q", "chosen": "a", "rejected": "b"}, system="s")
    own = load_one(tmp_path, {"prompt": "q", "completion": "a", "system": "own"}, system="s")
    assert isinstance(completion, Chat) and isinstance(chat, Chat)
    assert completion.messages == chat.messages == (SYSTEM, USER, ASSISTANT)
    assert isinstance(pair, Preference)
    assert pair.prompt == (SYSTEM, USER)
    assert isinstance(own, Chat)
    assert own.messages[0].content == "own"
    with pytest.raises(DataError, match="plain text cannot have a system prompt"):
        load(tmp_path, {"text": "t"}, system="s")


def test_columns_can_be_mapped(tmp_path: Path) -> None:
    row = {"text": "I lost my card", "category": "lost_card", "prompt": "not this"}
    record = load_one(tmp_path, row, columns={"prompt": "text", "completion": "category"})
    assert isinstance(record, Completion)
    assert (record.prompt, record.completion) == ("I lost my card", "lost_card")


def test_some_of_the_columns_can_be_mapped(tmp_path: Path) -> None:
    record = load_one(tmp_path, {"q": "q", "completion": "a"}, columns={"prompt": "q"})
    assert isinstance(record, Completion)


def test_the_format_can_be_set(tmp_path: Path) -> None:
    row = {"text": "t", "prompt": "q", "completion": "a"}
    assert isinstance(load_one(tmp_path, row, format="completion"), Completion)
    assert isinstance(load_one(tmp_path, row, format="text"), Text)
    with pytest.raises(DataError, match="no known format"):
        load(tmp_path, row, format="messages")


@pytest.mark.parametrize(
    "options",
    [
        {"columns": {"prompt": "a", "text": "b"}},
        {"columns": {"promt": "a"}},
        {"columns": {"prompt": ""}},
        {"format": "text", "columns": {"prompt": "a"}},
        {"format": "parquet"},
        {"trian": "x"},
        {"max_skipped": 1.5},
        {"max_skipped": "0.5"},
        {"slices": "column"},
        {"train": []},
        {"train": ""},
        {"test": ["a", ""]},
    ],
    ids=str,
)
def test_invalid_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        JsonlOptions(**{"train": "x", **options})


@pytest.mark.parametrize("name", JsonlOptions.model_fields)
def test_every_option_has_help(name: str) -> None:
    assert JsonlOptions.model_fields[name].description


def test_paths_are_marked_for_the_core() -> None:
    for name in ("train", "test"):
        assert JsonlOptions.model_fields[name].json_schema_extra == {"path": True}


@pytest.mark.parametrize("option", ["group", "slices", "columns"])
def test_a_missing_column_is_an_error(tmp_path: Path, option: str) -> None:
    value: object = {"group": "patiant", "slices": ["patiant"], "columns": {"system": "patiant"}}[
        option
    ]
    with pytest.raises(DataError, match="has no column `patiant`") as caught:
        load(tmp_path, {"prompt": "q", "completion": "a", "patient": "x"}, **{option: value})
    assert caught.value.hint == "did you mean `patient`?"


def test_groups_and_slices(tmp_path: Path) -> None:
    rows = [
        {"prompt": "q", "completion": "a", "patient": 2**80, "site": "Graz", "urgent": True},
        {"prompt": "q", "completion": "a", "patient": "7", "site": None, "urgent": False},
        {"prompt": "q", "completion": "a", "site": "Linz"},
        {"prompt": "q", "completion": "a", "patient": [1], "site": "Linz"},
        {"prompt": "q", "completion": "a", "patient": "7", "site": float("nan")},
    ]
    dataset = load(tmp_path, *rows, group="patient", slices=["site", "urgent"], max_skipped=0.9)
    assert [(r.group, r.slices) for r in dataset.train] == [
        (str(2**80), (("site", "Graz"), ("urgent", "true"))),
        ("7", (("urgent", "false"),)),
    ]
    assert [x.cause for x in dataset.skipped] == [
        "`patient` has no value",
        "`patient` is a list, not a label",
        "`site` is a number, not a label",
    ]


def test_a_file_may_mix_formats_and_each_is_counted(tmp_path: Path) -> None:
    completion = {"prompt": "q", "completion": "a"}
    alpaca = {"instruction": "do", "output": "a"}
    rows = [{"messages": turns("q", "a")}, *[completion] * 20, *[alpaca] * 3]
    dataset = load(tmp_path, *rows)
    assert [type(record) for record in dataset.train] == [Chat, *[Completion] * 23]
    assert dataset.description.endswith(
        "20 rows of prompts and completions (prompt, completion), 3 of Alpaca instructions "
        "(instruction, output), 1 of chat messages (messages)"
    )


def test_mixed_rows_are_the_same_when_they_are_read_again(tmp_path: Path) -> None:
    rows: list[object] = [{"prompt": f"q {n}", "completion": "a"} for n in range(20)]
    rows[3:6] = [{"instruction": f"do {n}", "output": "b", "input": "x"} for n in range(3)]
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert len(load_both_ways(JSONL.build(JsonlOptions(train=str(path)))).train) == 20


def test_a_system_prompt_has_no_place_in_plain_text_among_other_rows(tmp_path: Path) -> None:
    rows = [{"prompt": "q", "completion": "a"}] * 3 + [{"text": "t"}]
    dataset = load(tmp_path, *rows, system="S", max_skipped=0.5)
    assert [x.cause for x in dataset.skipped] == ["plain text cannot have a system prompt"]


def test_optional_columns_may_be_missing_in_some_rows(tmp_path: Path) -> None:
    alpaca = {"instruction": "do", "output": "a"}
    assert len(load(tmp_path, alpaca, {**alpaca, "input": "x"}, alpaca).train) == 3


# ------------------------------------------------------------ reasoning


@pytest.mark.parametrize("key", ["reasoning_content", "thinking", "reasoning"])
def test_reasoning_in_a_key_of_its_own_is_in_front_of_the_answer(tmp_path: Path, key: str) -> None:
    answer = {"role": "assistant", "content": "Paris.", key: "France."}
    record = load_one(tmp_path, {"messages": [*turns("q"), answer]})
    assert isinstance(record, Chat)
    assert record.messages[-1] == Message("assistant", "Paris.", reasoning="France.")


@pytest.mark.parametrize("value", [None, ""])
def test_a_key_of_reasoning_without_any_is_ignored(tmp_path: Path, value: object) -> None:
    answer = {"role": "assistant", "content": "Paris.", "reasoning_content": value}
    record = load_one(tmp_path, {"messages": [*turns("q"), answer]})
    assert isinstance(record, Chat)
    assert record.messages[-1].content == "Paris."


def test_reasoning_that_is_not_an_answers_text_is_refused(tmp_path: Path) -> None:
    user = {"role": "user", "content": "q", "thinking": "hm"}
    bad = {"role": "assistant", "content": "a", "thinking": ["hm"]}
    dataset = load(
        tmp_path,
        {"messages": [user, turns("q", "a")[1]]},
        {"messages": [*turns("q"), bad]},
        {"messages": turns("q", "a")},
        max_skipped=0.9,
    )
    assert [row.cause for row in dataset.skipped] == [
        "a user turn has `thinking`, which only the assistant's turns have",
        "`thinking` is a list, not text",
    ]  # fmt: skip

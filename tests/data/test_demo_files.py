"""Rows in the shapes of public datasets become the right records, or are refused with a reason.

The shapes are those of the demo files of LLaMA-Factory, of TRL's dataset formats, of OpenAI's
fine-tuning API and of the Hermes models.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tunesmith.contracts import Dataset
from tunesmith.errors import DataError
from tunesmith.records import (
    Chat,
    Completion,
    Message,
    Preference,
    Record,
    Text,
    TextPart,
    ToolCall,
    UnpairedPreference,
)
from tunesmith_plugins.loaders.jsonl.offer import JSONL, JsonlOptions

USER, ASSISTANT, SYSTEM = Message("user", "q"), Message("assistant", "a"), Message("system", "s")
WEATHER = {"name": "weather", "description": "Weather in a city.", "parameters": {"type": "object"}}
WEATHER_TEXT = json.dumps({"type": "function", "function": WEATHER})
CALL = ToolCall("weather", '{"city": "Graz"}')
RESULT = '{"sky": "clear"}'
WITH_TOOLS = (
    Message("user", "q", tools=(WEATHER_TEXT,)),
    Message("assistant", "", tool_calls=(CALL,)),
    Message("tool", RESULT),
    ASSISTANT,
)


def turn(speaker: str, text: object, **keys: object) -> dict[str, object]:
    return {"from": speaker, "value": text, **keys}


def message(role: str, content: object, **keys: object) -> dict[str, object]:
    return {"role": role, "content": content, **keys}


def part(kind: str, value: str, **keys: object) -> dict[str, object]:
    return {"type": kind, "value": value, **keys}


CALL_JSON = json.dumps({"name": "weather", "arguments": {"city": "Graz"}})
SHAREGPT = [turn("human", "q"), turn("gpt", "a")]
MESSAGES = [message("user", "q"), message("assistant", "a")]
GOOD, BAD = turn("gpt", "a"), turn("gpt", "b")
PAIR = {"prompt": (USER,), "chosen": "a", "rejected": "b"}

RECORDS: dict[str, tuple[dict[str, object], type[Record], dict[str, object]]] = {
    "alpaca": (
        {"instruction": "do", "input": "this", "output": "a"},
        Completion,
        {"prompt": "do\n\nthis", "completion": "a"},
    ),
    "alpaca without input": (
        {"instruction": "q", "input": "", "output": "a"},
        Completion,
        {"prompt": "q", "completion": "a"},
    ),
    "alpaca with history": (
        {"instruction": "q", "output": "a", "system": "s", "history": [["q1", "a1"]]},
        Chat,
        {"messages": (SYSTEM, Message("user", "q1"), Message("assistant", "a1"), USER, ASSISTANT)},
    ),
    "alpaca of Dolly": (
        {"instruction": "do", "context": "this", "response": "a"},
        Completion,
        {"prompt": "do\n\nthis", "completion": "a"},
    ),
    "alpaca pair": (
        {"instruction": "do", "input": "this", "chosen": "a", "rejected": "b"},
        Preference,
        {**PAIR, "prompt": (Message("user", "do\n\nthis"),)},
    ),
    "plain text": ({"text": "t"}, Text, {"text": "t"}),
    "DPO as message objects": (
        {"conversations": [turn("human", "q")], "chosen": GOOD, "rejected": BAD},
        Preference,
        PAIR,
    ),
    "DPO with role and content": (
        {
            "messages": [message("user", "q")],
            "chosen": message("assistant", "a"),
            "rejected": message("assistant", "b"),
        },
        Preference,
        PAIR,
    ),
    "DPO with weights": (
        {
            "chosen_messages": [
                message("user", [part("text", "q")], loss_weight=0.0),
                message("assistant", [part("text", "a")], loss_weight=1.0),
            ],
            "rejected_messages": [
                message("user", [part("text", "q")], loss_weight=0.0),
                message("assistant", [part("text", "b")], loss_weight=1.0),
            ],
        },
        Preference,
        PAIR,
    ),
    "function calls of ShareGPT": (
        {
            "conversations": [
                turn("human", "q"),
                turn("function_call", CALL_JSON),
                turn("observation", RESULT),
                turn("gpt", "a"),
            ],
            "tools": json.dumps([WEATHER]),
        },
        Chat,
        {"messages": WITH_TOOLS},
    ),
    "tool calls of OpenAI": (
        {
            "messages": [
                message("user", "q"),
                message(
                    "assistant",
                    None,
                    tool_calls=[
                        {
                            "id": "c1",
                            "type": "function",
                            "function": {"name": "weather", "arguments": '{"city": "Graz"}'},
                        }
                    ],
                ),
                message("tool", RESULT, tool_call_id="c1"),
                message("assistant", "a"),
            ],
            "tools": [{"type": "function", "function": WEATHER}],
        },
        Chat,
        {
            "messages": (
                WITH_TOOLS[0],
                Message("assistant", "", tool_calls=(ToolCall("weather", CALL.arguments, "c1"),)),
                Message("tool", RESULT, tool_call_id="c1"),
                ASSISTANT,
            )
        },
    ),
    "tool calls of Hermes": (
        {
            "conversations": [
                turn("human", "q"),
                turn("gpt", f"<tool_call>\n{CALL_JSON}\n</tool_call>"),
                turn("tool", f"<tool_response>\n{RESULT}\n</tool_response>"),
                turn("gpt", "a"),
            ],
            "tools": json.dumps([{"type": "function", "function": WEATHER}]),
        },
        Chat,
        {"messages": WITH_TOOLS},
    ),
    "an answer and its function call": (
        {
            "conversations": [
                turn("human", "q"),
                turn("gpt", "let me look"),
                turn("function_call", CALL_JSON),
                turn("observation", RESULT),
                turn("gpt", "a"),
            ],
        },
        Chat,
        {
            "messages": (
                USER,
                Message("assistant", "let me look", tool_calls=(CALL,)),
                Message("tool", RESULT),
                ASSISTANT,
            )
        },
    ),
    "reasoning and calls as parts": (
        {
            "messages": [
                message("user", [part("text", "q")]),
                message("assistant", [part("reasoning", "r"), part("tool_call", CALL_JSON)]),
                message("tool", [part("text", RESULT)]),
                message("assistant", [part("reasoning", "r2"), part("text", "a")]),
            ],
            "tools": json.dumps([{"type": "function", "function": WEATHER}]),
        },
        Chat,
        {
            "messages": (
                WITH_TOOLS[0],
                Message("assistant", "", reasoning="r", tool_calls=(CALL,)),
                Message("tool", RESULT),
                Message("assistant", "a", reasoning="r2"),
            )
        },
    ),
    "reasoning_content": (
        {"messages": [MESSAGES[0], message("assistant", "a", reasoning_content="r")]},
        Chat,
        {"messages": (USER, Message("assistant", "a", reasoning="r"))},
    ),
    "thinking": (
        {"messages": [MESSAGES[0], message("assistant", "a", thinking="r")]},
        Chat,
        {"messages": (USER, Message("assistant", "a", reasoning="r"))},
    ),
    "reasoning in the text": (
        {"prompt": "q", "completion": "<think>\nr\n</think>\n\na"},
        Chat,
        {"messages": (USER, Message("assistant", "a", reasoning="r"))},
    ),
    "reasoning in a column": (
        {"question": "q", "reasoning": "r", "answer": "a"},
        Chat,
        {"messages": (USER, Message("assistant", "a", reasoning="r"))},
    ),
    "no reasoning, as the text states": (
        {"prompt": "q", "completion": "<think>\n\n</think>\n\na"},
        Completion,
        {"prompt": "q", "completion": "<think>\n\n</think>\n\na"},
    ),
    "SFT with weights of LLaMA-Factory": (
        {
            "messages": [
                message("user", [part("text", "q")], loss_weight=0.0),
                message("assistant", [part("text", "a")], loss_weight=1.0),
            ]
        },
        Chat,
        {"messages": (USER, ASSISTANT)},
    ),
    "weights of OpenAI": (
        {
            "messages": [
                *[message("user", "q1"), message("assistant", "a1", weight=0)],
                *[message("user", "q"), message("assistant", "a", weight=1)],
            ]
        },
        Chat,
        {
            "messages": (
                *(Message("user", "q1"), Message("assistant", "a1", weight=0.0)),
                *(USER, ASSISTANT),
            )
        },
    ),
    "train flags": (
        {
            "conversations": [
                *[turn("human", "q1"), turn("gpt", "a1", train=False)],
                *[turn("human", "q2"), turn("gpt", "a2", mask=True)],
                *[turn("human", "q", train=False), turn("gpt", "a", mask=False)],
            ]
        },
        Chat,
        {
            "messages": (
                *(Message("user", "q1"), Message("assistant", "a1", weight=0.0)),
                *(Message("user", "q2"), Message("assistant", "a2", weight=0.0)),
                *(USER, ASSISTANT),
            )
        },
    ),
    "weights of parts": (
        {
            "messages": [
                message("user", "q"),
                message("assistant", [part("text", "a"), part("text", "b", weight=0.5)]),
            ]
        },
        Chat,
        {"messages": (USER, Message("assistant", (TextPart("a"), TextPart("b", 0.5))))},
    ),
    "KTO of TRL": (
        {"prompt": "q", "completion": "a", "label": False},
        UnpairedPreference,
        {"prompt": (USER,), "completion": "a", "label": False},
    ),
    "KTO in messages": (
        {"messages": MESSAGES, "label": True},
        UnpairedPreference,
        {"prompt": (USER,), "completion": "a", "label": True},
    ),
    "KTO of ShareGPT": (
        {"conversations": SHAREGPT, "kto_tag": "false"},
        UnpairedPreference,
        {"prompt": (USER,), "completion": "a", "label": False},
    ),
    "KTO with numbers": (
        {"instruction": "q", "output": "a", "label": 0, "system": "s"},
        UnpairedPreference,
        {"prompt": (SYSTEM, USER), "completion": "a", "label": False},
    ),
    "prompt and completion as messages": (
        {
            "prompt": [*MESSAGES, message("user", "q2")],
            "completion": [message("assistant", "a2")],
        },
        Chat,
        {
            "messages": (
                *(USER, Message("assistant", "a", weight=0.0)),
                *(Message("user", "q2"), Message("assistant", "a2")),
            )
        },
    ),
    "UltraChat, whose prompt is the first turn": (
        {"prompt": "q", "prompt_id": "x", "messages": MESSAGES},
        Chat,
        {"messages": (USER, ASSISTANT)},
    ),
    "Alpaca with the row as one text": (
        {"instruction": "q", "input": "", "output": "a", "text": "### Q\nq\n### A\na"},
        Completion,
        {"prompt": "q", "completion": "a"},
    ),
    "no images": (
        {"messages": MESSAGES, "images": [], "tools": "[]", "weight": 1, "train": True},
        Chat,
        {"messages": (USER, ASSISTANT)},
    ),
}

REFUSED: dict[str, tuple[dict[str, object], str]] = {
    "images": ({"messages": MESSAGES, "images": ["1.jpg"]}, "`images` changes what is learned"),
    "audio": ({"messages": MESSAGES, "audios": ["1.mp3"]}, "`audios` changes what is learned"),
    "video": ({"prompt": "q", "completion": "a", "videos": ["1.mp4"]}, "`videos` changes"),
    "image parts": (
        {"messages": [message("user", [part("image_url", "1.jpg"), part("text", "q")])]},
        "the content has a part that is not text",
    ),
    "tools beside plain text": ({"text": "t", "tools": [WEATHER]}, "`tools` changes"),
    "label of a text": ({"text": "t", "label": 3}, "`label` changes what is learned"),
    "label that is a category": (
        {"prompt": "q", "completion": "a", "label": "billing"},
        "`label` is neither true nor false",
    ),
    "weight of a row": ({"prompt": "q", "completion": "a", "weight": 0.5}, "`weight` changes"),
    "mask of a row": ({"messages": MESSAGES, "mask": [0, 1]}, "`mask` changes"),
    "mask as numbers": (
        {"messages": [MESSAGES[0], message("assistant", "a", mask=1)]},
        "`mask` of a message is a number, not true or false",
    ),
    "unknown mask": (
        {"messages": [MESSAGES[0], message("assistant", "a", loss_mask=[1])]},
        "a message has the key `loss_mask`, which cannot be used",
    ),
    "images of a message": (
        {"messages": [message("user", "q", images=["1.jpg"]), MESSAGES[1]]},
        "a message has the key `images`, which cannot be used",
    ),
    "a trained question": (
        {"messages": [message("user", "q", train=True), MESSAGES[1]]},
        "a user turn is marked for training",
    ),
    "negative weight": (
        {"messages": [MESSAGES[0], message("assistant", "a", weight=-1)]},
        "`weight` of a message is not a number of at least 0",
    ),
    "nothing trained": (
        {"messages": [MESSAGES[0], message("assistant", "a", weight=0)]},
        "no answer in the conversation is trained on",
    ),
    "weight in a pair": (
        {
            "prompt": "q",
            "chosen": [message("assistant", "a", weight=0.5)],
            "rejected": [message("assistant", "b")],
        },
        "an answer of a pair has a weight",
    ),
    "reasoning in a pair": (
        {
            "prompt": "q",
            "chosen": message("assistant", "a", reasoning_content="r"),
            "rejected": message("assistant", "b"),
        },
        "an answer of a pair has reasoning",
    ),
    "tool call with a label": (
        {
            "messages": [MESSAGES[0], message("assistant", "", tool_calls=[{"name": "weather"}])],
            "label": True,
        },
        "an answer with a label has tool calls",
    ),
    "reasoning of the user": (
        {"messages": [message("user", "q", reasoning_content="r"), MESSAGES[1]]},
        "a user turn has `reasoning_content`",
    ),
    "reasoning column of a conversation": (
        {"messages": MESSAGES, "reasoning": "r"},
        "`reasoning` changes what is learned",
    ),
    "text and completion": ({"text": "t", "completion": "a"}, "`completion` would be lost"),
    "text and answer": ({"text": "t", "answer": "a"}, "`answer` would be lost"),
    "prompt and text": ({"prompt": "p", "text": "t"}, "`prompt` would be lost"),
    "question with a context": (
        {"question": "q", "context": "c", "answer": "a"},
        "`context` would be lost",
    ),
    "two answers": ({"prompt": "q", "completion": "a", "response": "b"}, "`response` would be"),
    "a pair and a half": (
        {"prompt": "q", "completion": "a", "rejected": "b"},
        "`rejected` would be lost",
    ),
    "messages and another answer": (
        {"messages": MESSAGES, "response": "other"},
        "`response` would be lost",
    ),
    "a call without JSON": (
        {"conversations": [turn("human", "q"), turn("function_call", "weather(Graz)")]},
        "a function_call turn is not JSON",
    ),
    "arguments that are a list": (
        {
            "messages": [
                MESSAGES[0],
                message("assistant", None, tool_calls=[{"name": "weather", "arguments": [1]}]),
            ]
        },
        "arguments in `tool_calls` are a list, not an object",
    ),
    "tools without a name": (
        {"messages": MESSAGES, "tools": [{"type": "code_interpreter"}]},
        "`tools` has a definition without the tool's name",
    ),
    "history that is text": (
        {"instruction": "q", "output": "a", "history": "earlier"},
        "`history` must be a list of [prompt, response] pairs, but it is text",
    ),
}


def load(folder: Path, *rows: object, **options: Any) -> Dataset:
    path = folder / "data.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return JSONL.build(JsonlOptions(train=str(path), **options)).load()


@pytest.mark.parametrize("name", RECORDS)
def test_a_row_becomes_the_record_that_its_format_means(tmp_path: Path, name: str) -> None:
    row, kind, fields = RECORDS[name]
    (record,) = load(tmp_path, row).train
    assert type(record) is kind
    assert {field: getattr(record, field) for field in fields} == fields


@pytest.mark.parametrize("name", REFUSED)
def test_a_row_whose_parts_would_be_ignored_is_refused(tmp_path: Path, name: str) -> None:
    row, cause = REFUSED[name]
    with pytest.raises(DataError) as caught:
        load(tmp_path, row)
    assert f"× {cause}" in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    "row",
    [
        {"messages": MESSAGES, "images": ["1.jpg"]},
        {"prompt": "q", "completion": "a", "label": "billing"},
        {"prompt": "q", "completion": "a", "label": False},
        {"question": "q", "context": "c", "answer": "a"},
        {"prompt": "q", "completion": "a", "weight": 2},
    ],
    ids=str,
)
def test_the_user_can_say_that_a_column_is_to_be_ignored(
    tmp_path: Path, row: dict[str, object]
) -> None:
    column = next(c for c in ("images", "label", "context", "weight") if c in row)
    dataset = load(tmp_path, row, ignore=[column])
    assert type(dataset.train[0]) in (Chat, Completion)
    (warning,) = dataset.warnings
    assert warning.endswith(f"not used: {column}")


def test_a_column_of_slices_is_no_label(tmp_path: Path) -> None:
    rows = [{"prompt": "q", "completion": "a", "label": label} for label in (True, False)]
    dataset = load(tmp_path, *rows, slices=["label"])
    assert [record.slices for record in dataset.train] == [
        (("label", "true"),),
        (("label", "false"),),
    ]
    assert all(type(record) is Completion for record in dataset.train)


def test_columns_and_keys_without_effect_are_named_in_a_warning(tmp_path: Path) -> None:
    row = {"messages": [message("user", "q", id=1), message("assistant", "a", date="x")], "n": 2}
    dataset = load(tmp_path, row, row)
    assert [w.split(": ", 1)[1] for w in dataset.warnings] == [
        "not used: n, messages.id, messages.date"
    ]


def test_tools_in_the_system_prompt_of_hermes_are_not_added_again(tmp_path: Path) -> None:
    system = f"You may call: <tools>{WEATHER_TEXT}</tools>"
    conversation = [turn("system", system), *SHAREGPT]
    (record,) = load(tmp_path, {"conversations": conversation, "tools": [WEATHER]}).train
    assert isinstance(record, Chat)
    assert record.messages == (Message("system", system), USER, ASSISTANT)


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>not JSON</tool_call>",
        f"<tool_call>{CALL_JSON}</tool_call> and then",
        "<think>open",
        "a <think>b</think>",
    ],
)
def test_marks_that_are_no_calls_or_reasoning_stay_text(tmp_path: Path, text: str) -> None:
    (record,) = load(tmp_path, {"prompt": "q", "completion": text}).train
    assert isinstance(record, Completion)
    assert record.completion == text


def test_the_description_names_the_columns_that_are_used(tmp_path: Path) -> None:
    row, *_ = RECORDS["function calls of ShareGPT"]
    assert load(tmp_path, row).description.endswith(
        "1 rows of ShareGPT conversations (conversations), with tools"
    )


@pytest.mark.parametrize(
    ("row", "hint"),
    [
        ({"chosen": "a"}, "preference pairs also need `rejected`, not only `chosen`"),
        ({"prompt": "q", "target": "a"}, 'columns = { completion = "..." }'),
        ({"frage": "q", "antwort": "a"}, "map your columns"),
        ({"Tenant": "T1", "Message": "q", "Dept": "a"}, 'prompt = "Message", completion = "..."'),
        ({"mesages": MESSAGES}, "did you mean `messages`?"),
    ],
)
def test_rows_of_no_format_are_told_what_they_lack(
    tmp_path: Path, row: dict[str, object], hint: str
) -> None:
    with pytest.raises(DataError) as caught:
        load(tmp_path, row)
    assert hint in str(caught.value.hint)

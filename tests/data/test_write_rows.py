"""Records written as rows are read back as the same records."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tables import build

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
from tunesmith_data.write_rows import record_to_row
from tunesmith_plugins.loaders.jsonl.offer import JSONL

TOOL = '{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}'
ASKED = (Message("system", "Be brief."), Message("user", "Why?\n  ö"))
CALLED = (
    Message("user", "Weather?", tools=(TOOL,)),
    Message("assistant", "", tool_calls=(ToolCall("f", '{"city": "Rome"}', "call1"),)),
    Message("tool", "12 degrees", name="f", tool_call_id="call1"),
    Message("assistant", "12 degrees."),
)
KINDS: list[list[Record]] = [
    [Text(source="", text="one\ntwo")],
    [Completion(source="", prompt="p", completion="c", group="g", slices=(("site", "north"),))],
    [Chat(source="", messages=(*ASKED, Message("assistant", "So.", reasoning="Because")))],
    [Chat(source="", messages=(*ASKED, Message("assistant", "No.", weight=0.5)))],
    [
        Chat(
            source="",
            messages=(*ASKED, Message("assistant", (TextPart("a"), TextPart("b", weight=0)))),
        )
    ],
    [Chat(source="", messages=CALLED)],
    [Preference(source="", prompt=ASKED, chosen="yes", rejected="no")],
    [
        UnpairedPreference(source="", prompt=ASKED, completion="yes", label=True),
        UnpairedPreference(source="", prompt=ASKED, completion="no", label=False),
    ],
]


@pytest.mark.parametrize("records", KINDS, ids=lambda records: type(records[0]).__name__)
def test_a_row_is_read_back_as_the_same_record(records: list[Record], tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(record_to_row(record)) + "\n" for record in records))
    options = {"group": "group"} if records[0].group else {}
    slices = {"slices": [name for name, _ in records[0].slices]}
    dataset = JSONL.build(build(JSONL.config, train=str(file), **options, **slices)).load()
    assert [replace(record, source="") for record in dataset.train] == records
    assert dataset.warnings == []


def test_a_record_of_a_plugin_is_refused() -> None:
    with pytest.raises(TypeError, match="cannot be written as a row"):
        record_to_row(Record(source="a"))

"""Rows that are built again from their columns: the same records as by all checks."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tunesmith.records import Chat, Completion, Message, Record, Text
from tunesmith_data import RowError, RowLoader, parse_row
from tunesmith_data.stored_records import (
    CHANGED,
    CHAT,
    COMPLETION,
    TEXT,
    CopiedRows,
    StoredRecords,
)
from tunesmith_plugins.loaders.jsonl.offer import JSONL, JsonlOptions

USER, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
FILES: dict[str, tuple[dict[str, Any], list[dict[str, Any]], list[int]]] = {
    "completions": (
        {},
        [
            {"prompt": "é “p”", "completion": 'a\\": "b'},
            {"prompt": "p", "completion": "<think>\nr\n</think>\na"},
            {"prompt": "p", "completion": "see <think> there", "n": 1.5},
            {"prompt": [USER], "completion": "a"},
        ],
        [COMPLETION, CHANGED, COMPLETION, CHANGED],
    ),
    "Alpaca rows": (
        {},
        [
            {"instruction": "i", "input": "", "output": "o"},
            {"instruction": "i", "input": "more", "output": "o"},
        ],
        [COMPLETION, CHANGED],
    ),
    "other columns": (
        {"columns": {"prompt": "ask.text", "completion": "a"}},
        [{"ask": {"text": "p"}, "a": "c"}],
        [CHANGED],
    ),
    "a system prompt": ({"system": "s"}, [{"prompt": "p", "completion": "c"}], [CHANGED]),
    "a group": ({"group": "g"}, [{"prompt": "p", "completion": "c", "g": 7}], [CHANGED]),
    "texts": ({}, [{"text": "t"}, {"text": "u", "id": 2**70}], [TEXT, TEXT]),
    "conversations": (
        {},
        [
            {"messages": [USER, ANSWER, USER, ANSWER]},
            {"messages": [{"from": "human", "value": "q"}, ANSWER]},
            {"messages": [USER, {**ANSWER, "weight": 0.5}]},
            {"messages": [USER, {**ANSWER, "content": "<think>r</think>a"}]},
        ],
        [CHAT, CHANGED, CHANGED, CHANGED],
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_rows_that_are_read_again_are_the_same_records(tmp_path: Path, name: str) -> None:
    options, rows, kinds = FILES[name]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    loader = JSONL.build(JsonlOptions(train=str(path), **options))
    assert isinstance(loader, RowLoader)
    kept, stored = loader.load().train, RowLoader(loader.options, loader.read, 0).load().train
    assert isinstance(kept, list) and isinstance(stored, StoredRecords)
    assert list(stored._kinds) == kinds
    assert list(stored) == kept == [stored[n] for n in range(len(kept))]


def test_the_kind_is_changed_for_records_that_are_not_their_columns() -> None:
    rows = CopiedRows(("q", "a"))
    record = Completion(source="f:1", prompt="p ", completion="c")
    fields = {"q": record.prompt, "a": record.completion}
    assert rows.kind(record, fields) == COMPLETION
    assert rows.build(COMPLETION, "f:1", fields) == record
    assert rows.kind(record, {**fields, "q": "p"}) == CHANGED
    others: list[Record] = [
        Completion(source="f:1", prompt="p ", completion="c", slices=(("x", "y"),)),
        Text(source="f:1", text="c"),
        Chat(source="f:1", messages=(Message("user", "p "), Message("assistant", "c"))),
    ]
    assert [rows.kind(other, fields) for other in others] == [CHANGED] * 3
    assert CopiedRows(()).kind(record, fields) == CHANGED


def test_no_mark_in_a_text_hides_a_key_that_is_there_twice() -> None:
    marks = ('"', "\\", '":', '\\":', '" :', ' "a":1', "\\\\", '": "b"')
    for key, text in product(marks, marks):
        pair, twice = json.dumps({key: text})[1:-1], json.dumps({"b": text})[1:-1]
        assert parse_row(f"{{{pair}}}".encode()) == {key: text}
        for apart in ("", " ", "  ", "\t"):
            spaced = twice.replace('"b":', f'"b"{apart}:', 1)
            with pytest.raises(RowError, match="same key twice"):
                parse_row(f"{{{pair}, {twice}, {spaced}}}".encode())

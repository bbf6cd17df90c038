"""Columns that are inside of others, and the guess which columns are which."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from loading import load_both_ways

from tunesmith.contracts import Dataset
from tunesmith.errors import DataError
from tunesmith.records import Completion
from tunesmith_data.guess_columns import guess_columns
from tunesmith_data.record_reader import add_paths
from tunesmith_plugins.loaders.jsonl.offer import JSONL, JsonlOptions

TASK = {"instruction": "Add.", "instances": [{"input": "1 + 1", "output": "2"}], "meta": {"a": "x"}}
COLUMNS = {"input": "instances.0.input", "output": "instances.0.output"}


def load(folder: Path, *rows: dict[str, Any], **options: Any) -> Dataset:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_both_ways(JSONL.build(JsonlOptions(train=str(path), **options)))


def test_a_path_leads_to_a_value_inside_of_a_column(tmp_path: Path) -> None:
    dataset = load(tmp_path, TASK, columns=COLUMNS, group="meta.a")
    (record,) = dataset.train
    assert isinstance(record, Completion)
    assert (record.prompt, record.completion, record.group) == ("Add.\n\n1 + 1", "2", "x")


def test_a_row_without_the_value_is_skipped(tmp_path: Path) -> None:
    empty = {**TASK, "instances": []}
    dataset = load(tmp_path, TASK, empty, columns=COLUMNS, max_skipped=0.5)
    assert [item.cause for item in dataset.skipped] == ["has no `instances.0.output`"]
    with pytest.raises(DataError, match=r"has no column `instances.1.input`"):
        load(tmp_path, TASK, columns={"input": "instances.1.input", "output": "instances.1.output"})


def test_a_column_with_the_name_of_a_path_comes_first() -> None:
    assert add_paths({"a.b": 1, "a": {"b": 2}}, ["a.b"])["a.b"] == 1
    row = {"a": {"b": [{"c": 3}]}, "d": "text"}
    paths = ["a.b.0.c", "a.b.1.c", "a.b.x", "d.0", "e.f"]
    assert add_paths(row, paths) == {**row, "a.b.0.c": 3}


@pytest.mark.parametrize(
    ("columns", "guess"),
    [
        ("prompt completion", {}),
        ("messages id", {}),
        ("text", {}),
        ("text category", {"prompt": "text", "completion": "category"}),
        ("Question Reply id", {"prompt": "Question", "completion": "Reply"}),
        ("id utterance intent", {"prompt": "utterance", "completion": "intent"}),
        ("left right", {"prompt": "left", "completion": "right"}),
        ("left label", {"prompt": "left", "completion": "label"}),
        ("a b c", None),
        ("a label c", None),
    ],
)
def test_columns_are_guessed_from_their_names(columns: str, guess: dict[str, str] | None) -> None:
    assert guess_columns(columns.split()) == guess

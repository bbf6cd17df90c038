"""Files with one text in each row."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith.errors import DataError
from tunesmith_evidence.side_effects.text_rows import read_text_rows


def test_the_first_column_that_a_row_has_is_read(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "ü", "prompt": "p"}\n\n{"prompt": "q"}\n', encoding="utf-8")
    rows = read_text_rows(path, ["prompt", "text"])
    assert [(row.source, row.text) for row in rows] == [(f"{path}:1", "p"), (f"{path}:3", "q")]
    assert read_text_rows(path, ["text", "prompt"])[0].text == "ü"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no rows"),
        (b'{"text": "a"}\n{"body": "b"}', r":2: has no text in \"text\""),
        (b'{"text": 3}', ":1: has no text"),
        (b'{"text": " "}', ":1: has no text"),
        (b'{"text": "a"', ":1: is not JSON"),
        (b"[" * 100_000, ":1: is not JSON"),
        (b"3", ":1: has no text"),
        (b'{"text": "\xff"}', "is not UTF-8"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_text_rows(path, ["text"])


def test_a_file_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        read_text_rows(tmp_path / "none.jsonl", ["text"])

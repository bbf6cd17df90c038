"""Files in other encodings than UTF-8: read as text, and refused where they are not."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest
from loading import load_both_ways
from pydantic import ValidationError

from tunesmith.errors import DataError
from tunesmith.records import Completion
from tunesmith_data.options import check_encoding
from tunesmith_plugins.loaders.table.offer import TABLE, TableOptions

TEXT = "Anfrage;Lösung\nWärme fehlt;Größe 5\nIst das „gut“?;Nein\n"
COLUMNS: Any = {"prompt": "Anfrage", "completion": "Lösung"}


def load(folder: Path, data: bytes, **options: Any) -> list[tuple[str, str]]:
    path = folder / "data.csv"
    path.write_bytes(data)
    dataset = load_both_ways(TABLE.build(TableOptions(train=str(path), columns=COLUMNS, **options)))
    assert [record.source[-2:] for record in dataset.train] == [":2", ":3"]
    return [(r.prompt, r.completion) for r in dataset.train if isinstance(r, Completion)]


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-16-be", "mac-roman", "utf-8-sig"])
def test_a_file_is_read_in_its_encoding(tmp_path: Path, encoding: str) -> None:
    expected = load(tmp_path, TEXT.encode())
    assert load(tmp_path, TEXT.encode(encoding), encoding=encoding) == expected
    packed = gzip.compress(TEXT.encode(encoding))
    assert load(tmp_path, packed, encoding=encoding) == expected


def test_a_character_may_lie_across_two_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = load(tmp_path, TEXT.encode())
    monkeypatch.setattr("tunesmith_data.files._UNPACKED_BLOCK", 3)
    assert load(tmp_path, TEXT.encode("utf-16"), encoding="utf-16") == expected


def test_another_encoding_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data.csv:2: byte 0x8f is not text in cp1252"):
        load(tmp_path, b"Anfrage;L\xf6sung\na;\x8f\n", encoding="cp1252")


def test_a_header_in_another_encoding_names_the_key(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data.csv:1: not UTF-8: .* which is ö") as caught:
        load(tmp_path, TEXT.encode("cp1252", "replace"))
    assert 'encoding = "cp1252"' in (caught.value.hint or "")


def test_encodings_have_one_name_each_and_must_be_of_text() -> None:
    assert check_encoding("Windows-1252") == check_encoding("cp1252") == "cp1252"
    assert check_encoding("UTF8") == check_encoding("utf-8") == "utf-8"
    for name in ("rot13", "base64", "nothing", ""):
        with pytest.raises(ValidationError, match="text encoding"):
            TableOptions(train="x", encoding=name)

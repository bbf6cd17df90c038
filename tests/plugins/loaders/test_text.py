"""Texts and folders: every character in a piece, every document in one part, nothing torn."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import docx
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from splitting import request_for

from tunesmith.contracts import Dataset
from tunesmith.errors import DataError
from tunesmith.records import Text
from tunesmith_data.splits import split_records
from tunesmith_plugins.loaders.text import pieces
from tunesmith_plugins.loaders.text.loader import TextLoader
from tunesmith_plugins.loaders.text.offer import TEXT, recognizes
from tunesmith_plugins.loaders.text.options import TextOptions
from tunesmith_plugins.loaders.text.pieces import cut_into_pieces, measure_tokens


def load(train: Any, **options: Any) -> Dataset:
    given_options = TextOptions(train=train, **options)
    dataset = TEXT.build(given_options).load()
    stored = TextLoader(given_options, memory=0).load()
    assert list(stored.train) == list(dataset.train)
    return dataset


def texts(dataset: Dataset) -> list[str]:
    return [record.text for record in dataset.train if isinstance(record, Text)]


def fits(limit: int) -> Callable[[str], int]:
    return lambda text: min(limit, len(text))


@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(1, 40))
@settings(max_examples=200, deadline=None)
def test_pieces_are_the_text(text: str, limit: int) -> None:
    data = text.encode()
    found = list(cut_into_pieces(BytesIO(data), fits(limit), 0.0))
    assert [data[p.offset : p.offset + p.size].decode() for p in found] == [p.text for p in found]
    assert "".join("".join(p.text for p in found).split()) == "".join(text.split())
    assert all(0 < len(p.text) <= limit for p in found)
    assert [p.line for p in found] == [1 + data[: p.offset].count(b"\n") for p in found]


@given(st.text("ab c\né", min_size=1), st.integers(4, 30), st.floats(0.01, 0.5))
@settings(max_examples=200, deadline=None)
def test_pieces_overlap(text: str, limit: int, overlap: float) -> None:
    found = list(cut_into_pieces(BytesIO(text.encode()), fits(limit), overlap))
    for one, other in pairwise(found):
        assert one.offset < other.offset <= one.offset + one.size + limit * 2
    assert "".join(text.split()) == "" or found


def test_texts_larger_than_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "".join(f"Line {n} is é long.\n\n" for n in range(3_000))
    whole = list(cut_into_pieces(BytesIO(text.encode()), fits(100), 0.2))
    monkeypatch.setattr(pieces, "BLOCK_BYTES", 1 << 10)
    monkeypatch.setattr(pieces, "MAX_WINDOW", 1 << 9)
    assert list(cut_into_pieces(BytesIO(text.encode()), fits(100), 0.2)) == whole


def test_pieces_end_at_paragraphs_lines_and_words() -> None:
    text = "One two.\n\nThree four five six seven eight nine ten"
    assert [p.text for p in cut_into_pieces(BytesIO(text.encode()), fits(16), 0.0)] == [
        "One two.\n\n",
        "Three four five ",
        "six seven eight ",
        "nine ten",
    ]


def test_a_folder_is_read_with_its_documents_as_groups(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# Title\n\nSome words. " * 30)
    (tmp_path / "repo" / ".git").mkdir(parents=True)
    (tmp_path / "repo" / ".git" / "config.txt").write_text("hidden")
    for name in ("one.py", "two.py"):
        (tmp_path / "repo" / name).write_text(f"print('{name}')\n" * 20)
    (tmp_path / "repo" / "__init__.py").write_text("")
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8")
    dataset = load(str(tmp_path), max_characters=100)
    groups = {Path(r.source.rpartition(":")[0]).name: r.group for r in dataset.train}
    assert set(groups) == {"a.md", "one.py", "two.py"}
    assert groups["one.py"] == groups["two.py"] == str(tmp_path / "repo")
    assert str(groups["a.md"]).endswith("a.md")
    split = split_records(
        dataset.train, request_for(dataset.train, test_size=0.4, validation=False)
    )
    test, train = ({dataset.train[n].group for n in part} for part in (split.test, split.train))
    assert not test & train


def test_pieces_have_the_tokens_that_are_asked_for(tmp_path: Path) -> None:
    words = {f"w{n}": n for n in range(50)} | {"[UNK]": 50}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    path = tmp_path / "a.txt"
    path.write_text(" ".join(f"w{n % 50}" for n in range(1_000)))
    for name in (tmp_path, tmp_path / "tokenizer.json"):
        found = texts(load(str(path), tokenizer=str(name), max_tokens=10))
        assert {len(text.split()) for text in found} <= set(range(5, 11))
        assert sum(len(text.split()) for text in found) == 1_000
    with pytest.raises(DataError, match="is not a valid tokenizer file"):
        measure_tokens(str(path), 10)


def test_pdf_and_word_documents(tmp_path: Path) -> None:
    document = docx.Document()
    document.add_paragraph("Hello from Word.")
    document.save(str(tmp_path / "a.docx"))
    (tmp_path / "b.pdf").write_bytes(pdf("Hello from PDF."))
    (tmp_path / "c.pdf").write_bytes(pdf("cut off")[:60])
    dataset = load(str(tmp_path), max_skipped=0.5)
    assert texts(dataset) == ["Hello from Word.", "Hello from PDF."]
    assert dataset.train[1].source.endswith("b.pdf:1")
    assert [x.cause for x in dataset.skipped] == ["the document cannot be read"]


def test_unusable_documents_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("good")
    (tmp_path / "b.txt").write_bytes(b"caf\xe9")
    (tmp_path / "c.txt").write_bytes("text".encode("utf-16"))
    (tmp_path / "d.txt").write_bytes(b"some text\0")
    (tmp_path / "e.txt").write_text(" \n ")
    dataset = load(str(tmp_path), max_skipped=0.8)
    assert texts(dataset) == ["good"]
    assert [(x.where[-7:], x.cause) for x in dataset.skipped] == [
        ("b.txt:1", "not UTF-8"),
        ("c.txt:1", "the document cannot be read"),
        ("d.txt:1", "`text` contains a NUL character"),
    ]
    with pytest.raises(DataError, match="3 of 4 rows cannot be used"):
        load(str(tmp_path))


def test_names_that_hold_no_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="contains no files to read") as caught:
        load(str(tmp_path))
    assert "another data loader" in str(caught.value.hint) and ".md" in str(caught.value.hint)
    with pytest.raises(DataError, match="no such file"):
        load(str(tmp_path / "missing.txt"))
    (tmp_path / "[a].txt").write_text("brackets")
    assert texts(load(str(tmp_path))) == ["brackets"]
    with pytest.raises(DataError, match="is in both train and test"):
        load(str(tmp_path), test=str(tmp_path / "[[]a].txt"))


def test_a_single_document_is_split_only_if_that_is_allowed(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("Some words. " * 200)
    assert len({r.group for r in load(str(path), max_characters=100).train}) == 1
    split = load(str(path), max_characters=100, split_documents=True)
    assert {r.group for r in split.train} == {None}


def test_texts_are_recognized(tmp_path: Path) -> None:
    assert recognizes(str(tmp_path)) and recognizes("notes.md") and recognizes("src/*.py")
    assert not recognizes("rows.jsonl") and not recognizes("https://example.com/a.txt")


def pdf(text: str) -> bytes:
    """Return a PDF document with one page."""
    content = f"BT /F1 18 Tf 20 200 Td ({text}) Tj ET"
    font = "<< /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >>"
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 300 300] /Contents 4 0 R "
        f"/Resources << /Font {font} >> >>",
        f"<< /Length {len(content)} >>\nstream\n{content}\nendstream",
    ]
    data, offsets = "%PDF-1.4\n", []
    for number, item in enumerate(objects, 1):
        offsets.append(len(data))
        data += f"{number} 0 obj\n{item}\nendobj\n"
    start = len(data)
    data += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n"
    data += "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    data += f"trailer\n<< /Root 1 0 R /Size {len(objects) + 1} >>\nstartxref\n{start}\n%%EOF\n"
    return data.encode()

"""Documents in a folder: formats, encodings, and files that cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest

import tunesmith_plugins.baselines.documents.read_folder as reader
from tunesmith.errors import DataError
from tunesmith_plugins.baselines.documents.read_folder import html_to_text, read_folder

PAGE = """<html><head><title>Not shown</title><style>p {}</style>
<script>let a = "<p>no</p>";</script></head><body><nav>Home</nav>
<h1>Fees</h1><p>A permit costs <b>42</b>
EUR &amp; more.<ul><li>first<li>second</ul>
<table><tr><th>Locker</th><td>9 EUR</td></tr></table></body></html>"""


def test_all_formats_and_encodings(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "a.md").write_bytes("\ufeff# Größe\r\nText\r".encode())
    (tmp_path / "b" / "c.TXT").write_text("Übrig", encoding="utf-16")
    (tmp_path / "d.html").write_text(PAGE)
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / ".hidden.md").write_text("secret")
    found = read_folder(tmp_path)
    assert found.skipped == {}
    assert [(one.name, one.text) for one in found.documents] == [
        ("a.md", "# Größe\nText\n"),
        ("b/c.TXT", "Übrig"),
        ("d.html", html_to_text(PAGE)),
    ]


def test_a_page_is_shown_as_a_reader_sees_it() -> None:
    assert html_to_text(PAGE).split("\n") == [
        "# Fees",
        "",
        "A permit costs 42 EUR & more.",
        "",
        "first",
        "second",
        "",
        "| Locker | 9 EUR",
    ]
    assert html_to_text("<svg>x<p>still hidden</svg><!-- no --><h3>Last &lt;") == "### Last <"


def test_a_pdf_is_read_page_by_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.pdf").write_bytes(b"%PDF-")
    pages = [(1, "first page"), (2, "second page")]
    monkeypatch.setattr(reader, "open_document", lambda file: iter(pages))
    (document,) = read_folder(tmp_path).documents
    assert document.text == "first page\n\nsecond page"


def test_each_skipped_file_is_named_with_its_reason(tmp_path: Path) -> None:
    folder = tmp_path / "book"
    folder.mkdir()
    (tmp_path / "outside.md").write_text("outside")
    (folder / "a.md").write_text("inside")
    (folder / "latin.txt").write_bytes("Größe".encode("latin-1"))
    (folder / "zeros.md").write_bytes(b"ab\0cd")
    (folder / "broken.pdf").write_bytes(b"%PDF-1.7 and no more")
    for number in range(6):
        (folder / f"{number}.png").write_bytes(b"x")
    (folder / "link.md").symlink_to(tmp_path / "outside.md")
    (folder / "up").symlink_to(tmp_path)
    found = read_folder(folder)
    assert [one.text for one in found.documents] == ["inside"]
    lines = [*found.describe_skipped()]
    images = "0.png, 1.png, 2.png, 3.png, 4.png, ..."
    assert f"6 files skipped (.png: convert to Markdown or text): {images}" in lines
    assert "2 files skipped (links and special files are not read): link.md, up" in lines
    assert "1 file skipped (neither UTF-8 nor UTF-16: save as UTF-8): latin.txt" in lines
    assert "1 file skipped (binary, not text): zeros.md" in lines
    assert any("cannot be read: " in line and line.endswith(": broken.pdf") for line in lines)


def test_a_folder_without_documents_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_folder(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no readable documents"):
        read_folder(tmp_path)
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(DataError, match=r"no readable documents: 1 file skipped .* a\.png"):
        read_folder(tmp_path)


def test_a_folder_that_is_too_large_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.md").write_text("a" * 60)
    (tmp_path / "b.md").write_text("b" * 60)
    assert len(read_folder(tmp_path).documents) == 2
    monkeypatch.setattr(reader, "MAX_BYTES", 100)
    with pytest.raises(DataError, match=r"b\.md exceeds the limit"):
        read_folder(tmp_path)
    monkeypatch.setattr(reader, "MAX_FILES", 1)
    with pytest.raises(DataError, match="more than 1 files"):
        read_folder(tmp_path)

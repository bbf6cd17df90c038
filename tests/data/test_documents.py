"""PDF and Word documents, recognized by their content."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith.errors import DataError
from tunesmith_data import DataFile
from tunesmith_data.documents import open_document


def test_only_documents_are_opened(tmp_path: Path) -> None:
    path = tmp_path / "a.pdf"
    path.write_text("only text")
    assert open_document(DataFile(path, "a.pdf")) is None


def test_a_word_document_and_a_damaged_one(tmp_path: Path) -> None:
    docx = pytest.importorskip("docx")
    document = docx.Document()
    document.add_paragraph("A permit costs 42 EUR.")
    document.save(str(tmp_path / "a.docx"))
    pages = open_document(DataFile(tmp_path / "a.docx", "a.docx"))
    assert pages is not None and [*pages] == [(1, "A permit costs 42 EUR.")]
    (tmp_path / "b.docx").write_bytes((tmp_path / "a.docx").read_bytes()[:200])
    broken = open_document(DataFile(tmp_path / "b.docx", "b.docx"))
    assert broken is not None
    with pytest.raises(DataError, match=r"b\.docx: cannot be read: "):
        list(broken)

"""Read the text of PDF and Word documents."""

from __future__ import annotations

from collections.abc import Iterator

from tunesmith.errors import DataError
from tunesmith_data.files import DataFile, require_library

__all__ = ["open_document"]

PDF_MAGIC, ZIP_MAGIC = b"%PDF-", b"PK\x03\x04"


def open_document(file: DataFile) -> Iterator[tuple[int, str]] | None:
    """Return the pages of a PDF or Word document as (number, text), or None for any other file.

    Raises:
        DataError: the document is damaged or password-protected.
        EnvironmentProblem: the library that reads such documents is not installed.
    """
    with open(file.path, "rb") as stream:
        head = stream.read(1 << 10)
    if PDF_MAGIC in head:
        require_library("pypdf", file.display_name, extra="documents")
        return _read(file, _pdf_pages)
    if head.startswith(ZIP_MAGIC) and file.path.suffix.lower() == ".docx":
        require_library("docx", file.display_name, extra="documents")
        return _read(file, _word_text)
    return None


def _read(file: DataFile, pages: object) -> Iterator[tuple[int, str]]:
    assert callable(pages)
    try:
        yield from pages(file)
    except Exception as error:  # These libraries raise all kinds of errors for damaged files.
        problem = f"cannot be read: {type(error).__name__}: {error}"[:300]
        hint = "open the file in another program and save it again, or remove it from the data"
        raise DataError(file.display_name, problem, hint=hint) from error


def _pdf_pages(file: DataFile) -> Iterator[tuple[int, str]]:
    import pypdf

    for number, page in enumerate(pypdf.PdfReader(file.path).pages, 1):
        yield number, page.extract_text()


def _word_text(file: DataFile) -> Iterator[tuple[int, str]]:
    import docx

    document = docx.Document(str(file.path))
    yield 1, "\n\n".join(paragraph.text for paragraph in document.paragraphs)

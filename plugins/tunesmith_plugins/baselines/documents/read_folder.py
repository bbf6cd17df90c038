"""Read the text of documents in a folder: Markdown, plain text, HTML, PDF and Word."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import unescape
from pathlib import Path

from tunesmith.errors import DataError, EnvironmentProblem
from tunesmith.text import format_count
from tunesmith_data import DataFile
from tunesmith_data.documents import open_document

HTML_SUFFIXES = (".html", ".htm")
SUFFIXES = (".md", ".markdown", ".rst", ".txt", *HTML_SUFFIXES, ".pdf", ".docx")
MAX_FILES = 20_000
MAX_BYTES = 20_000_000
"""Maximum size of all documents together; the index of more text would take minutes."""
NAMED_FILES = 5
BOMS_OF_UTF16 = (b"\xff\xfe", b"\xfe\xff")
UNSHOWN_TAGS = ("nav", "noscript", "script", "style", "svg", "template", "title")
TAG_BREAKS = {
    **{f"h{level}": f"\n\n{'#' * level} " for level in range(1, 7)},
    **dict.fromkeys(("br", "dd", "dt", "li", "tr"), "\n"),
    **dict.fromkeys(("article", "div", "ol", "p", "pre", "section", "table", "ul"), "\n\n"),
    **dict.fromkeys(("td", "th"), " | "),
}
"""The text that replaces each start tag."""
_TAG = re.compile(r"<(/?)(!|[a-z][a-z0-9]*)[^<>]*>", re.IGNORECASE)


@dataclass(frozen=True)
class Document:
    """A document, converted to Markdown or plain text."""

    name: str
    """Path relative to the folder."""
    text: str


@dataclass(frozen=True)
class Documents:
    """The documents of a folder, sorted by name."""

    documents: tuple[Document, ...]
    skipped: dict[str, list[str]]
    """Names of the skipped files, by reason."""

    def describe_skipped(self) -> Iterator[str]:
        """Yield one line per reason, with the number and the names of the skipped files."""
        for reason, names in self.skipped.items():
            more = ", ..." if len(names) > NAMED_FILES else ""
            count = format_count(len(names), "file")
            yield f"{count} skipped ({reason}): {', '.join(names[:NAMED_FILES])}{more}"


def read_folder(folder: Path) -> Documents:
    """Read all documents in a folder and its subfolders, except hidden files.

    Skip links, because they may lead out of the folder.

    Raises:
        DataError: the folder does not exist, has no documents, or is too large.
    """
    if not folder.is_dir():
        raise DataError(
            str(folder),
            "the folder with the documents does not exist",
            hint="correct `folder` in [baselines.documents]",
        )
    documents, skipped, size = [], dict[str, list[str]](), 0
    for path in _list_files(folder):
        name = path.relative_to(folder).as_posix()
        reason = _find_obstacle(path)
        if not reason:
            size += path.stat().st_size
            if size > MAX_BYTES:
                raise DataError(
                    str(folder),
                    f"the documents are larger than {MAX_BYTES // 1_000_000} MB in total "
                    f"({name} exceeds the limit)",
                    hint="keep only the documents that answer the questions",
                )
            text, reason = _read_text(path)
        if reason:
            skipped.setdefault(reason, []).append(name)
        elif text.strip():
            documents.append(Document(name, text))
    found = Documents(tuple(documents), skipped)
    if not documents:
        reasons = "; ".join(found.describe_skipped())
        raise DataError(
            str(folder),
            f"the folder has no readable documents{f': {reasons}' if reasons else ''}",
            hint=f"put files with the suffixes {', '.join(SUFFIXES)} into it",
        )
    return found


def _list_files(folder: Path) -> list[Path]:
    """Return the files and links in a folder and its subfolders, sorted, without hidden ones."""
    paths: list[Path] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        links = [name for name in folders if Path(parent, name).is_symlink()]
        paths += [Path(parent, name) for name in (*names, *links) if not name.startswith(".")]
        if len(paths) > MAX_FILES:
            raise DataError(
                str(folder),
                f"the folder has more than {MAX_FILES:,} files",
                hint="set `folder` in [baselines.documents] to a folder with only the documents",
            )
    return sorted(paths)


def _find_obstacle(path: Path) -> str:
    """Return the reason why a file is not a document, or an empty string."""
    if path.is_symlink() or not path.is_file():
        return "links and special files are not read"
    if path.suffix.lower() in SUFFIXES:
        return ""
    return f"{path.suffix or 'files without a suffix'}: convert to Markdown or text"


def _read_text(path: Path) -> tuple[str, str]:
    """Return a document's text and "", or "" and the reason why the text cannot be read."""
    try:
        pages = open_document(DataFile(path, path.name))
        if pages is not None:
            return "\n\n".join(text for _, text in pages), ""
        content = path.read_bytes()
        text = content.decode("utf-16" if content.startswith(BOMS_OF_UTF16) else "utf-8-sig")
    except EnvironmentProblem as error:
        return "", error.hint or error.message
    except DataError as error:
        return "", error.what
    except OSError as error:
        return "", f"cannot be read: {error.strerror}"
    except UnicodeDecodeError:
        return "", "neither UTF-8 nor UTF-16: save as UTF-8"
    if "\0" in text:
        return "", "binary, not text"
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return (html_to_text(text) if path.suffix.lower() in HTML_SUFFIXES else text), ""


def html_to_text(html: str) -> str:
    """Return the visible text of an HTML page, with headings as in Markdown."""
    first, *pieces = _TAG.split(html)
    parts, unshown = [" ".join(first.split())], ""
    for slash, name, text in zip(pieces[::3], pieces[1::3], pieces[2::3], strict=True):
        tag = name.lower()
        if unshown and not (slash and tag == unshown):
            continue
        unshown = tag if tag in UNSHOWN_TAGS and not slash else ""
        if not unshown:
            end = "\n\n" if tag.startswith("h") else ""
            parts += [end if slash else TAG_BREAKS.get(tag, ""), re.sub(r"\s+", " ", text)]
    lines = (" ".join(line.split()) for line in unescape("".join(parts)).split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()

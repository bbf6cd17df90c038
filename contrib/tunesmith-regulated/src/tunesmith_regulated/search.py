"""Search files for texts, in every form that tunesmith writes."""

from __future__ import annotations

import html
import json
import re
from codecs import getincrementaldecoder
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from functools import cache
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile

PIECE, LONGEST_ESCAPE = 1 << 22, len("\\\\u00fc") * 2
"""Characters that are searched at once, and the most characters that stand for one."""
COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf", b"PAR1")
"""Starts of files of gzip, bzip2, xz, Zstandard, 7-Zip and Parquet."""
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_LETTERS = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f"}


@cache
def list_forms(text: str) -> set[bytes]:
    """Return the bytes of a text in UTF-8, UTF-16, CSV, JSON, JSON within JSON, and HTML."""
    forms = {text, text.replace('"', '""'), html.escape(text), html.escape(text, quote=False)}
    for _ in range(2):
        forms |= {json.dumps(f, ensure_ascii=a)[1:-1] for f in forms for a in (True, False)}
    encoded = {form.encode("utf-8", "surrogatepass") for form in forms}
    return encoded | {text.encode(name, "surrogatepass") for name in ("utf-16-le", "utf-16-be")}


def contains(path: Path, texts: Collection[str]) -> bool:
    """Return True if a file contains one of the texts."""
    if not path.stat().st_size:
        return False
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
        if any(content.find(form) >= 0 for text in texts for form in list_forms(text)):
            return True
    return is_text(path) and _contains_escaped(path, [unescape(text) for text in texts])


def _contains_escaped(path: Path, texts: Collection[str]) -> bool:
    """Return True if a text file contains one of the texts with escapes of other programs."""
    before = ""
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        while piece := before + file.read(PIECE):
            if len(piece) == len(before):
                return False
            if ("\\" in piece or "&" in piece) and any(t in unescape(piece) for t in texts):
                return True
            before = piece[-LONGEST_ESCAPE * max(map(len, texts), default=0) :]
    return False


def unescape(text: str) -> str:
    """Return a text without escapes of HTML and JSON, also if both were applied, or one twice."""
    for _ in range(2):
        text = _ESCAPE.sub(_read_escape, html.unescape(text))
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _read_escape(match: re.Match[str]) -> str:
    digits, letter = match.groups()
    return chr(int(digits, 16)) if digits else _LETTERS.get(letter, letter)


def is_compressed(path: Path) -> bool:
    """Return True if a file is compressed, so that its bytes do not show its texts."""
    with path.open("rb") as file:
        start = file.read(6)
    if start.startswith(b"PK"):
        with suppress(BadZipFile, OSError), ZipFile(path) as archive:
            return any(member.compress_type != ZIP_STORED for member in archive.infolist())
    return start.startswith(COMPRESSED)


def is_text(path: Path) -> bool:
    """Return True if the start of a file is text in UTF-8, which can be searched."""
    with path.open("rb") as file, suppress(UnicodeDecodeError):
        return getincrementaldecoder("utf-8")().decode(file.read(1 << 16)) is not None
    return False


def read_rows(path: Path) -> dict[int, list[str]] | None:
    """Return the texts of each row by line; None if a line is not a JSON object."""
    rows = {}
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if line.strip():
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                return None
            if not isinstance(value, dict):
                return None
            rows[number] = [text for _, text in list_texts(value)]
    return rows


def list_texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield every text and number in nested tables and lists as text, with its dotted key."""
    match value:
        case str() | int() | float() if not isinstance(value, bool):
            yield key, str(value)
        case Mapping():
            for name, item in value.items():
                yield from list_texts(item, f"{key}.{name}" if key else str(name))
        case list() | tuple():
            for number, item in enumerate(value):
                yield from list_texts(item, f"{key}.{number}")


def replace_strings(value: Any, texts: Collection[str], by: str) -> Any:
    """Return a JSON value; every text in it that contains one of the given texts is replaced."""
    match value:
        case str():
            return by if any(text in value for text in texts) else value
        case int() | float() if not isinstance(value, bool):
            return by if str(value) in texts else value
        case dict():  # a table of counts may have texts as keys
            return {
                replace_strings(k, texts, by): replace_strings(v, texts, by)
                for k, v in value.items()
            }
        case list():
            return [replace_strings(item, texts, by) for item in value]
    return value

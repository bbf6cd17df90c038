"""Search files for texts, in every form that tunesmith writes."""

from __future__ import annotations

import html
import json
from codecs import getincrementaldecoder
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from functools import cache
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any


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
        return any(content.find(form) >= 0 for text in texts for form in list_forms(text))


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

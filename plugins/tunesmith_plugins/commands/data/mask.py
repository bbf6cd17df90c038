"""Replace personal data in a file of rows with placeholders, and keep all other bytes."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator

from tunesmith_data.personal_data import mask_row

_JSON_TOKEN = re.compile(r'"(?P<text>[^"\\]*+(?:\\.[^"\\]*+)*+)"(?P<key>\s*:)?|[{}]', re.DOTALL)


def mask_file(content: bytes, *, is_json: bool) -> tuple[bytes, Counter[str]]:
    """Return a file with masked personal data, and the number of values by placeholder.

    In JSON, mask the texts of each object, but not its keys and numbers. In other files, a row is a
    line. Within quotation marks, as in CSV, a row can contain line breaks.
    """
    text = content.decode("utf-8", "surrogateescape")
    rows = _split_json(text) if is_json else ([row] for row in _split_lines(text))
    total: Counter[str] = Counter()
    masked: list[str] = []
    for parts in rows:
        masked += _mask_json(parts, total) if is_json else _mask_texts(parts, total)
    return "".join(masked).encode("utf-8", "surrogateescape"), total


def _mask_texts(texts: list[str], total: Counter[str]) -> list[str]:
    masked, counts = mask_row(texts)
    total.update(counts)
    return masked


def _split_lines(text: str) -> Iterator[str]:
    """Yield the rows of a text with their line breaks."""
    row = ""
    for line in text.splitlines(keepends=True):
        row += line
        if row.count('"') % 2 == 0:
            yield row
            row = ""
    yield row


def _split_json(text: str) -> Iterator[list[str]]:
    """Yield each outermost object as a list that alternates between other JSON and strings."""
    parts: list[str] = []
    end, depth = 0, 0
    for token in _JSON_TOKEN.finditer(text):
        if token["text"] is None:
            depth += 1 if token.group() == "{" else -1
            if depth == 0:
                yield [*parts, text[end : token.end()]]
                parts, end = [], token.end()
        elif token["key"] is None:
            parts += [text[end : token.start()], token.group()]
            end = token.end()
    yield [*parts, text[end:]]


def _mask_json(parts: list[str], total: Counter[str]) -> Iterable[str]:
    """Return the parts of an object, with every second part (a text) masked."""
    texts = [_decode(part) for part in parts[1::2]]
    known = [text for text in texts if text is not None]
    masked = iter(_mask_texts(known, total))
    for number, text in enumerate(texts):
        if text is not None:
            clean = next(masked)
            if clean != text:
                parts[2 * number + 1] = json.dumps(clean, ensure_ascii=False)
    return parts


def _decode(literal: str) -> str | None:
    """Return the text of a JSON string, or None if it is not valid."""
    try:
        return str(json.loads(literal, strict=False))
    except ValueError:
        return None

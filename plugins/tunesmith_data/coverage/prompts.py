"""Read rows that may have no answer, such as a log of user questions."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tunesmith.contracts import Dataset
from tunesmith.options import from_table
from tunesmith_data.files import make_suffix_matcher
from tunesmith_data.json_line import parse_row
from tunesmith_data.load import RowLoader
from tunesmith_data.options import RowOptions
from tunesmith_data.row import ByteStream, Fields, Row, RowError, not_utf8_error

_CHATS = ("messages", "conversations", "conversation")
_PROMPTS = ("prompt", "instruction", "question", "input", "text")
_CONTEXTS = ("input", "context")
_ANSWER = "no answer"

is_prompt_file = make_suffix_matcher(".jsonl", ".ndjson", ".txt", ".log")
"""A function that returns True for file names that :func:`read_prompts` can read."""


def read_prompts(path: Path) -> Dataset:
    """Read the prompts from a file of JSON Lines or plain lines of text, which may be compressed.

    JSON rows need a column ``messages``, ``prompt``, ``instruction``, ``question``, ``input`` or
    ``text``. The answer may be missing; the records then contain a placeholder.

    Raises:
        DataError: the file cannot be read, or no row is usable.
    """
    options = from_table(RowOptions, {"train": str(path), "max_skipped": 1.0})
    return RowLoader(options, _read_rows).load()


def _read_rows(stream: ByteStream, name: str) -> Iterator[Row]:
    lines = ((number, raw.strip()) for number, raw in enumerate(stream, 1))
    rows = ((number, raw) for number, raw in lines if raw)
    first = next(rows, None)
    if first is None:
        return
    parse = _parse_json if first[1].startswith(b"{") else _parse_text
    for number, raw in itertools.chain([first], rows):
        try:
            yield Row(number, parse(raw))
        except RowError as error:
            yield Row(number, error)


def _parse_text(raw: bytes) -> Fields:
    try:
        return {"text": raw.decode()}
    except UnicodeDecodeError as error:
        raise not_utf8_error(raw, error.start) from None


def _parse_json(raw: bytes) -> Fields:
    """Return a row with only its prompt, and a placeholder as the answer."""
    row = parse_row(raw)
    for name in _CHATS:
        if isinstance(row.get(name), list):
            return {name: _answered(row[name])}
    for name in _PROMPTS:
        if row.get(name) is not None:
            if name == "instruction":
                contexts = {key: row[key] for key in _CONTEXTS if row.get(key)}
                return {"instruction": row[name], **contexts, "output": _ANSWER}
            return {"prompt": row[name], "completion": _ANSWER}
    names = ", ".join((*_CHATS[:1], *_PROMPTS))
    raise RowError(
        "has no prompt",
        ", ".join(row),
        hint=f"rename the column with the prompt to one of {names}",
    )


def _answered(messages: list[Any]) -> list[Any]:
    """Append a placeholder answer unless the conversation ends with an answer."""
    last = messages[-1] if messages else None
    if not isinstance(last, dict):
        return messages
    if last.get("role") in ("assistant",) or last.get("from") in ("gpt", "assistant"):
        return messages
    if "from" in last:
        return [*messages, {"from": "gpt", "value": _ANSWER}]
    return [*messages, {"role": "assistant", "content": _ANSWER}]

"""Read a JSONL file with one text per row, such as general texts or prompts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tunesmith.errors import DataError
from tunesmith.records import Text

__all__ = ["read_text_rows"]


def read_text_rows(path: Path, columns: Sequence[str]) -> list[Text]:
    """Return the texts in a file. Each text comes from the first of ``columns`` that its row has.

    Raises:
        DataError: the file cannot be read, has no rows, or has a row without text.
    """
    names = " or ".join(f'"{column}"' for column in columns)
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise DataError(str(path), f"cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise DataError(str(path), "is not UTF-8", hint="save the file as UTF-8") from None
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            hint = "write one JSON object per line"
            raise DataError(where, "is not JSON", hint=hint) from None
        named = [row[c] for c in columns if c in row] if isinstance(row, dict) else []
        text = named[0] if named else None
        if not isinstance(text, str) or not text.strip():
            raise DataError(where, f"has no text in {names}", hint=f"rename the column to {names}")
        found.append(Text(source=where, text=text))
    if not found:
        raise DataError(str(path), "has no rows", hint="write one JSON object per line")
    return found

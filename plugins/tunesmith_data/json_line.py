"""Parse one JSON row from untrusted data: no input can crash the process or use up its memory."""

from __future__ import annotations

import json
import re
from typing import Any

from tunesmith.text import redact
from tunesmith_data.row import RowError, excerpt, json_type, not_utf8_error

MAX_DEPTH = 32
MAX_KEYS = 256

# A string from quote to quote, or to the end where it is cut off. Possessive, so that hostile
# input cannot make it backtrack.
JSON_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)'
_JSON_STRING = re.compile(JSON_STRING, re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def parse_row(raw: bytes) -> dict[str, Any]:
    """Return the JSON object in ``raw``.

    Raises:
        RowError: it is not UTF-8, not JSON, not an object, nested too deeply, or ambiguous.
    """
    if is_too_deep(raw):
        raise RowError(f"nested deeper than {MAX_DEPTH} levels")
    try:
        text = raw.decode()
        value = _DECODER.decode(text)
    except UnicodeDecodeError as error:
        raise not_utf8_error(raw, error.start) from None
    except json.JSONDecodeError as error:
        raise _not_json(text, error) from None
    except ValueError:  # Python refuses to convert integers of more than 4,300 digits
        raise RowError("a number with thousands of digits", excerpt(text)) from None
    if not isinstance(value, dict):
        raise RowError(f"row is {json_type(value)}, not an object", excerpt(text))
    return value


def parse_json_text(text: str, name: str) -> object:
    """Return the value of JSON that is inside a text of a row, such as a tool's arguments.

    Raises:
        RowError: it is not JSON, nested too deeply, or ambiguous; ``name`` is its name in messages.
    """
    if is_too_deep(text.encode(errors="surrogatepass")):
        raise RowError(f"{name} is nested deeper than {MAX_DEPTH} levels")
    try:
        return _DECODER.decode(text)
    except ValueError:
        raise RowError(f"{name} is not JSON", excerpt(text)) from None


def is_too_deep(raw: bytes) -> bool:
    """Return True if brackets nest deeper than the limit; for a check before recursive parsing."""
    if raw.count(b"{") + raw.count(b"[") <= MAX_DEPTH:
        return False
    depth = 0
    for bracket in _JSON_STRING.sub(b"", raw).translate(None, _NOT_BRACKETS):
        depth += 1 if bracket in b"[{" else -1
        if depth > MAX_DEPTH:
            return True
    return False


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MAX_KEYS:
        raise RowError(f"an object with more than {MAX_KEYS} keys", f"{len(pairs):,} keys")
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise RowError("an object with the same key twice", f"key {twice!r}")
    return found


# strict=False lets raw control characters inside strings pass: their meaning is plain.
_DECODER = json.JSONDecoder(strict=False, object_pairs_hook=_object)


def _not_json(text: str, error: json.JSONDecodeError) -> RowError:
    rest = text[error.pos :].lstrip()
    before = text[: error.pos].rstrip()
    if not rest or error.msg.startswith("Unterminated string"):
        why = "cut off"
    elif before.endswith(",") and rest[0] in "]}":
        why = "trailing comma"
    elif rest[0] == "'" or re.match(r"(None|True|False)\b", rest):
        why = "written by Python's repr, use json.dumps"
    else:
        why = f"{error.msg[:1].lower()}{error.msg[1:]}"
    near = redact(before[-200:])[-12:] + redact(rest[:200])[:20]
    return RowError("not JSON", f"{why} at character {error.pos + 1}: {near}")

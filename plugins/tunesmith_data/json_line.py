"""Parse one JSON row of untrusted data without crashing or exhausting memory."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from tunesmith.text import redact
from tunesmith_data.row import RowError, excerpt, json_type, not_utf8_error

try:
    import orjson
except ImportError:  # Use Python's decoder for every row.
    orjson = None  # type: ignore[assignment]

MAX_DEPTH = 32
MAX_KEYS = 256

# A string from quote to quote, or to the end if it is cut off. Possessive quantifiers keep hostile
# input from causing backtracking.
JSON_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)'
_JSON_STRING = re.compile(JSON_STRING, re.DOTALL)
_COLON_APART = re.compile(rb'"[ \t\r\n]+:')
_FLAT = frozenset((str, int, bool, type(None)))
_NOT_PLAIN = -(1 << 60)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def is_multi_line(head: bytes) -> bool:
    """Return True if a file's first JSON object spans several lines; ``head`` is its start."""
    first, newline, rest = head.lstrip().partition(b"\n")
    continues = first.startswith(b"{") and first.rstrip().endswith((b"{", b"[", b","))
    return bool(newline) and continues and not rest.lstrip().startswith(b"{")


def parse_row(raw: bytes) -> dict[str, Any]:
    """Return the JSON object in ``raw``.

    Raises:
        RowError: ``raw`` is not UTF-8, not JSON, not an object, nested too deeply, or ambiguous.
    """
    value = _parse_plain(raw)
    return _parse_any(raw) if value is None else value


def reparse_row(raw: bytes) -> dict[str, Any]:
    """Return the JSON object in ``raw``, which :func:`parse_row` has already accepted."""
    value: dict[str, Any] | None = _parse_fast(raw)
    if value is None:
        return _parse_any(raw)
    if _FLAT.issuperset(map(type, value.values())):
        return value
    return value if _count_keys(value) >= 0 else _parse_any(raw)


def _parse_plain(raw: bytes) -> dict[str, Any] | None:
    """Return the object in ``raw`` if orjson certainly parsed it correctly, otherwise None.

    orjson is several times faster than Python's decoder, but silently keeps the last of two equal
    keys and rounds large integers. A row is safe only if it has no floats, and as many keys as
    colons; colons inside strings are subtracted in simple cases.
    """
    value = _parse_fast(raw)
    if type(value) is not dict:
        return None
    keys = _count_keys(value)
    if keys == raw.count(b":"):
        return value
    if _COLON_APART.search(raw):
        return None
    # A quote after a single backslash is inside a string and does not end a key.
    in_texts = 0 if b'\\\\":' in raw else raw.count(b'\\":')
    return value if keys == raw.count(b'":') - in_texts else None


def _parse_fast(raw: bytes) -> Any:
    """Return the value as parsed by orjson, or None if it fails or is not installed."""
    if orjson is None:
        return None
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None


def _count_keys(value: dict[str, Any] | list[Any], depth: int = 1) -> int:
    """Return the number of keys in all objects, or a negative number if a value is not plain.

    Floats, objects with too many keys, and values that are nested too deeply are not plain.
    """
    if depth > MAX_DEPTH:
        return _NOT_PLAIN
    total = 0
    inner: Iterable[Any] = value
    if type(value) is dict:
        total += len(value) if len(value) <= MAX_KEYS else _NOT_PLAIN
        inner = value.values()
    for item in inner:
        kind = type(item)
        if kind is float:
            return _NOT_PLAIN
        if kind is dict or kind is list:
            total += _count_keys(item, depth + 1)
    return total


def _parse_any(raw: bytes) -> dict[str, Any]:
    """Return the object in ``raw``, or raise an error that explains why it cannot be used."""
    if is_too_deep(raw):
        raise RowError(
            f"row is nested deeper than {MAX_DEPTH} levels", hint="flatten the row, or remove it"
        )
    try:
        text = raw.decode()
        value = _DECODER.decode(text)
    except UnicodeDecodeError as error:
        raise not_utf8_error(raw, error.start) from None
    except json.JSONDecodeError as error:
        raise _not_json(text, error) from None
    except ValueError:  # Python refuses to convert integers of more than 4,300 digits.
        raise RowError(
            "a number has thousands of digits",
            excerpt(text),
            hint="write the number as text, or remove the row",
        ) from None
    if not isinstance(value, dict):
        raise RowError(f"row is {json_type(value)}, not an object", excerpt(text))
    return value


def parse_json_text(text: str, name: str) -> object:
    """Parse JSON inside a text of a row, such as the arguments of a tool call.

    Args:
        text: the JSON text.
        name: name of the text in error messages.

    Raises:
        RowError: the text is not JSON, nested too deeply, or ambiguous.
    """
    if is_too_deep(text.encode(errors="surrogatepass")):
        raise RowError(f"{name} is nested deeper than {MAX_DEPTH} levels")
    try:
        return _DECODER.decode(text)
    except ValueError:
        raise RowError(f"{name} is not JSON", excerpt(text)) from None


def is_too_deep(raw: bytes) -> bool:
    """Return True if brackets nest deeper than the limit; check this before recursive parsing."""
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
        raise RowError(f"an object has more than {MAX_KEYS} keys", f"{len(pairs):,} keys")
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise RowError(
            "an object has the same key twice",
            f"key {twice!r}",
            hint="keep only one of the two values",
        )
    return found


# strict=False accepts raw control characters inside strings, because they are unambiguous.
_DECODER = json.JSONDecoder(strict=False, object_pairs_hook=_object)


def _not_json(text: str, error: json.JSONDecodeError) -> RowError:
    rest = text[error.pos :].lstrip()
    before = text[: error.pos].rstrip()
    if not rest or error.msg.startswith("Unterminated string"):
        why = "cut off"
    elif before.endswith(",") and rest[0] in "]}":
        why = "trailing comma"
    elif rest[0] == "'" or re.match(r"(None|True|False)\b", rest):
        why = "written by Python's repr; use json.dumps"
    else:
        why = f"{error.msg[:1].lower()}{error.msg[1:]}"
    near = redact(before[-200:])[-12:] + redact(rest[:200])[:20]
    hint = (
        "`tunesmith data fix FILE` lists the lines that it can fix; CSV and TSV files need the "
        "data loader `table`"
    )
    return RowError("not JSON", f"{why} at character {error.pos + 1}: {near}", hint=hint)

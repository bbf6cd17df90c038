"""Rows are parsed alike with orjson and without it."""

from __future__ import annotations

import json
from typing import Any

import pytest

import tunesmith_data.json_line as json_line
from tunesmith_data import RowError, parse_row, reparse_row

ROWS = [
    b'{"a": "x", "b": [1, null, true, {"c": "d"}]}',
    b'{"a": 1.5, "b": 1e3, "c": 123456789012345678901234567890}',
    b'{"a": NaN, "b": -Infinity}',
    b'{"a": "\\ud800", "b": "\\u00e9 \xc3\xa9"}',
    b'{"a": "tab\there"}',
    b'{"a": 1, "a": 2}',
    b'{"a": {"b": 1, "b": 2}}',
    b'{"a:": "b\\":", "c": ":"}',
    b'{"a" : "b"}',
    b"[1, 2]",
    b"null",
    b'"text"',
    b"{'a': 1}",
    b'{"a": 1,}',
    b'{"a": "cut of',
    b'\xef\xbb\xbf{"a": 1}',
    b'{"a": "\xff"}',
    b"{" + b'"a": {' * 40 + b"}" * 41,
    json.dumps({f"k{n}": n for n in range(300)}).encode(),
    b'{"a": ' + b"9" * 5000 + b"}",
    "{}".encode("utf-16"),
    b"",
]


def parse(function: Any, raw: bytes) -> str:
    try:
        return repr(function(raw))
    except RowError as error:
        return f"{error.cause}: {error.detail}"


@pytest.mark.parametrize("function", [parse_row, reparse_row])
@pytest.mark.parametrize("raw", ROWS, ids=range(len(ROWS)))
def test_rows_are_parsed_alike_without_orjson(
    raw: bytes, function: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if function is reparse_row and parse(parse_row, raw)[:1] != "{":
        return  # only rows that were parsed are parsed again
    found = parse(function, raw)
    monkeypatch.setattr(json_line, "orjson", None)
    assert parse(function, raw) == found

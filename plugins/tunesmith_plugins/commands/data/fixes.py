"""Fix the bytes of a data file without changing the meaning of any row."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tunesmith_data import RowError, not_utf8_error, parse_row

UTF8_BOM = b"\xef\xbb\xbf"
UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")
MAX_REPR_BYTES = 1_000_000
"""Longer rows are not parsed as Python: the parser needs many times their size in memory."""
_TRAILING_COMMA = re.compile(r'("[^"\\]*+(?:\\.[^"\\]*+)*+")|,(\s*[\]}])', re.DOTALL)


@dataclass(frozen=True)
class Fix:
    """A fix with its description and line number, which is 0 for the whole file."""

    line: int
    text: str


class Fixer:
    """Fixes the lines of a file, and collects the fixes and the rows that cannot be fixed."""

    def __init__(self) -> None:
        self.fixes: list[Fix] = []
        self.unusable: list[tuple[int, RowError]] = []

    def decode(self, data: bytes, encoding: str = "utf-8") -> bytes:
        """Return a file as UTF-8 without a byte-order mark and without bare carriage returns.

        Raises:
            UnicodeDecodeError: the file does not have this encoding.
        """
        if data.startswith(UTF16_BOMS):
            encoding = "utf-16"
        if encoding != "utf-8":
            data = data.decode(encoding).encode("utf-8", "surrogatepass")
            self.fixes.append(Fix(0, f"converted from {encoding.upper()} to UTF-8"))
        if data.startswith(UTF8_BOM):
            data = data.removeprefix(UTF8_BOM)
            self.fixes.append(Fix(0, "removed the byte-order mark"))
        if b"\n" not in data and b"\r" in data.rstrip():
            data = data.replace(b"\r", b"\n")
            self.fixes.append(Fix(0, "converted carriage returns to line feeds"))
        return data

    def find_bad_bytes(self, data: bytes) -> None:
        """Collect the lines that are not UTF-8."""
        for number, line in enumerate(data.splitlines(), 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                self.unusable.append((number, not_utf8_error(line, error.start)))

    def json_lines(self, data: bytes) -> Iterator[bytes]:
        """Yield the lines of a JSON Lines file, each fixed if possible."""
        for number, line in enumerate(data.splitlines(keepends=True), 1):
            body = line.rstrip(b"\r\n")
            if not body.strip():
                yield line
                continue
            try:
                parse_row(body)
                yield line
            except RowError as error:
                fixed = self._fix(number, body)
                if fixed is None:
                    self.unusable.append((number, error))
                yield line if fixed is None else fixed + line[len(body) :]

    def _fix(self, number: int, body: bytes) -> bytes | None:
        for text, fix in _FIXES.items():
            fixed = fix(body)
            if fixed is not None and fixed != body:
                try:
                    parse_row(fixed)
                except RowError:
                    continue
                self.fixes.append(Fix(number, text))
                return fixed
        return None


def _remove_trailing_commas(body: bytes) -> bytes | None:
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return None
    text = _TRAILING_COMMA.sub(lambda m: m[1] or m[2], text.rstrip().removesuffix(","))
    return text.encode()


def _convert_repr(body: bytes) -> bytes | None:
    """Convert a row written with Python's repr to JSON, or return None if it is not one."""
    if len(body) > MAX_REPR_BYTES:
        return None
    try:
        tree = ast.parse(body.decode().strip(), mode="eval")
        value = ast.literal_eval(tree)
        if not isinstance(value, dict) or not _is_json(value) or _repeats_a_key(tree):
            return None
        return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, SyntaxError, RecursionError, MemoryError, UnicodeError):
        return None


def _repeats_a_key(tree: ast.AST) -> bool:
    """Return True if a dict literal repeats a key, because Python keeps only the last value."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            keys = [key.value for key in node.keys if isinstance(key, ast.Constant)]
            if len(set(keys)) < len(node.keys):
                return True
    return False


def _is_json(value: Any) -> bool:
    """Return True for values that JSON can represent, with strings as keys."""
    if isinstance(value, dict):
        return all(isinstance(k, str) and _is_json(v) for k, v in value.items())
    if isinstance(value, list):
        return all(map(_is_json, value))
    return isinstance(value, str | int | float | None)


_FIXES: dict[str, Callable[[bytes], bytes | None]] = {
    "removed trailing commas": _remove_trailing_commas,
    "converted from Python's repr to JSON": _convert_repr,
}

"""Run files: TOML, plus overrides from the environment and the command line.

A run file is data. This module reads it and remembers where every value came from; what the values
mean is decided in :mod:`tunesmith.plan`.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunesmith.errors import ConfigError, Problem, UsageError

ENVIRONMENT_PREFIX = "TUNESMITH__"
"""``TUNESMITH__TECHNIQUE__RANK=8`` overrides ``technique.rank``."""


@dataclass(frozen=True)
class RunFile:
    """What a run file says after overrides; ``origins`` maps dotted keys to who said it."""

    tables: dict[str, Any]
    folder: Path
    """Where relative paths start."""
    stem: str
    origins: Mapping[str, str] = field(default_factory=dict)


def read_run_file(
    path: Path, *, sets: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> RunFile:
    """Read a run file and apply overrides: command line over environment over file.

    Args:
        sets: ``key=value`` as given to ``--set``; the value is TOML, or else a bare string.

    Raises:
        UsageError: no such file.
        ConfigError: the file is not TOML, or an override cannot be placed.
    """
    tables = parse(_text(path), str(path))
    origins = {key: path.name for key in dotted(tables)}
    variables = os.environ if environment is None else environment
    for name in sorted(variables):
        if name.startswith(ENVIRONMENT_PREFIX):
            key = name.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", ".")
            place(tables, key, value_of(variables[name]), where=name)
            origins[key] = f"environment variable {name}"
    for item in sets:
        key, separator, text = item.partition("=")
        if not separator:
            raise UsageError(f"--set {item}: expected key=value", hint="--set technique.rank=8")
        place(tables, key.strip(), value_of(text), where="--set")
        origins[key.strip()] = "--set"
    return RunFile(tables=tables, folder=path.resolve().parent, stem=path.stem, origins=origins)


def parse(text: str, name: str) -> dict[str, Any]:
    """Parse TOML; a syntax error shows the line with a caret."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([_syntax(text, name, str(error))]) from None


def value_of(text: str) -> Any:
    """The value of an override: TOML where it parses, otherwise the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def place(tables: dict[str, Any], key: str, value: Any, *, where: str) -> None:
    """Put a value at a dotted key; numbers index lists of tables, as in ``evaluators.0.use``."""
    *parents, last = key.split(".")
    node: Any = tables
    for part in parents:
        if isinstance(node, list):
            node = _item(node, part, key, where)
        elif isinstance(node, dict):
            node = node.setdefault(part, {})
    if isinstance(node, list) and last.isdigit() and int(last) < len(node):
        node[int(last)] = value
    elif isinstance(node, dict) and last:
        node[last] = value
    else:
        raise ConfigError([Problem(where, f'"{key}" cannot be set: its parent is not a table')])


def dotted(tables: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted keys of all values; tables in lists are numbered."""
    keys = []
    for name, value in tables.items():
        if isinstance(value, dict):
            keys += dotted(value, f"{prefix}{name}.")
        elif isinstance(value, list) and value and all(isinstance(v, dict) for v in value):
            for number, table in enumerate(value):
                keys += dotted(table, f"{prefix}{name}.{number}.")
        else:
            keys.append(prefix + name)
    return keys


def _item(node: list[Any], part: str, key: str, where: str) -> Any:
    if part.isdigit() and int(part) < len(node):
        return node[int(part)]
    raise ConfigError([Problem(where, f'"{key}": the list has no item "{part}"')])


def _text(path: Path) -> str:
    if not path.is_file():
        raise UsageError(
            f"{path}: no such run file", hint="tunesmith init writes one to start from"
        )
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError([Problem(str(path), f"is not UTF-8 at byte {error.start}")]) from None


def _syntax(text: str, name: str, message: str) -> Problem:
    """Turn ``... (at line 3, column 7)`` into a place, with the line and a caret under it."""
    what, _, place_ = message.partition(" (at line ")
    line, _, column = place_.rstrip(")").partition(", column ")
    if not (line.isdigit() and column.isdigit()):
        return Problem(name, message)
    lines = text.splitlines()
    shown = lines[int(line) - 1] if int(line) <= len(lines) else ""
    caret = " " * (int(column) - 1) + "^"
    return Problem(f"{name}:{line}:{column}", f"{what[:1].lower()}{what[1:]}\n  {shown}\n  {caret}")

"""Run files: TOML, plus overrides from the environment and the command line.

A run file is data. This module reads it and records the origin of every value;
:mod:`tunesmith.config.read_plan` interprets the values.
"""

from __future__ import annotations

import os
import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunesmith.errors import ConfigError, Problem, UsageError
from tunesmith.offers import RUN_FILE_TABLES
from tunesmith.text import format_count, one_line

ENVIRONMENT_PREFIX = "TUNESMITH__"
"""``TUNESMITH__TECHNIQUE__EPOCHS=1`` overrides ``technique.epochs``."""
_LONG = re.compile(r"\d{4300}")
"""Matches numbers that may have more digits than Python converts (4,300 by default)."""


@dataclass(frozen=True)
class RunFile:
    """The tables of a run file after overrides; ``origins`` maps each dotted key to its source."""

    tables: dict[str, Any]
    folder: Path
    """The folder that relative paths are resolved against."""
    stem: str
    origins: Mapping[str, str] = field(default_factory=dict)


def read_run_file(
    source: Path | Mapping[str, Any],
    *,
    sets: Sequence[str] | Mapping[str, Any] = (),
    environment: Mapping[str, str] | None = None,
) -> RunFile:
    """Read a run file and apply overrides: command line over environment over file.

    Args:
        source: the file, or its tables. Paths in tables are relative to the current folder.
        sets: values by dotted key, or ``key=value`` strings as for ``--set``. A value that is not
            TOML is a plain string.

    Raises:
        UsageError: the file does not exist or is not a run file, or a string in ``sets`` is not
            ``key=value``.
        ConfigError: the file has a syntax error, the key of an override cannot be set, or an
            environment variable looks like a misspelled override.
    """
    if isinstance(source, Path):
        path, tables = source, _read_tables(source)
    else:
        path, tables = Path.cwd() / "run", deepcopy(dict(source))
    origins = {key: path.name for key in _dotted_keys(tables)}
    variables = os.environ if environment is None else environment
    _refuse_misspelled(variables, tables)
    for name in sorted(variables):
        if name.startswith(ENVIRONMENT_PREFIX):
            key = name.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", ".")
            value = parse_value(variables[name])
            set_value(tables, key, value, where=name)
            _set_origin(origins, key, value, f"environment variable {name}")
    for key, value in sets.items() if isinstance(sets, Mapping) else map(_parse_set, sets):
        set_value(tables, key, value, where="--set")
        _set_origin(origins, key, value, "--set")
    return RunFile(tables=tables, folder=path.resolve().parent, stem=path.stem, origins=origins)


def _refuse_misspelled(variables: Mapping[str, str], tables: Mapping[str, Any]) -> None:
    """Raise an error for environment variables that look like overrides but would be ignored.

    Raises:
        ConfigError: a variable resembles an override but does not start with ``TUNESMITH__``. It
            starts with ``TUNESMITH_`` and a table's name, or contains two underscores later.
    """
    words = {name.upper() for name in (*tables, *RUN_FILE_TABLES)}
    problems = []
    for name in sorted(variables):
        prefix, rest = name[:10].upper(), name[10:].upper()
        if prefix != "TUNESMITH_" or name.startswith(ENVIRONMENT_PREFIX):
            continue
        table = next((word for word in words if rest.strip("_").startswith(f"{word}_")), None)
        if table or "__" in rest:
            key = rest.strip("_")
            key = f"{table}__{key[len(table) :].strip('_')}" if table else key
            hint = f"did you mean {ENVIRONMENT_PREFIX}{key}?"
            problems.append(
                Problem(
                    f"environment variable {name}", "looks like an override, but is ignored", hint
                )
            )
    if problems:
        raise ConfigError(problems)


def _parse_set(item: str) -> tuple[str, Any]:
    key, separator, text = item.partition("=")
    if not separator:
        hint = "for example --set technique.epochs=1"
        raise UsageError(f"--set {item}: expected key=value", hint=hint)
    return key.strip(), parse_value(text)


def parse(text: str, name: str) -> dict[str, Any]:
    """Parse TOML; the message of a syntax error shows the line with a caret."""
    try:
        return _parse_toml(text, name)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([_syntax_problem(text, name, str(error))]) from None


def parse_value(text: str) -> Any:
    """Parse the value of an override as TOML; return the text itself if it is not TOML."""
    try:
        return _parse_toml(f"value = {text}", one_line(text))["value"]
    except tomllib.TOMLDecodeError:
        return text


def _parse_toml(text: str, name: str) -> dict[str, Any]:
    """Parse TOML.

    Raises:
        TOMLDecodeError: the text has a syntax error.
        ConfigError: the text is valid TOML, but exceeds what Python can read.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise
    except RecursionError:
        number = max(enumerate(text.split("\n"), 1), key=lambda line: line[1].count("["))[0]
        what = "brackets are nested too deeply"
    except ValueError:
        number = next((n for n, line in enumerate(text.split("\n"), 1) if _LONG.search(line)), 1)
        what = "a number has thousands of digits"
    raise ConfigError([Problem(f"{name}:{number}", what)])


def set_value(tables: dict[str, Any], key: str, value: Any, *, where: str) -> None:
    """Set a value by its dotted key; numbers are list indices, as in ``evaluators.0.use``.

    Raises:
        ConfigError: the key leads into a value that is not a table, or a list has no such item;
            the error starts with ``where``.
    """
    *parents, last = key.split(".")
    node: Any = tables
    for part in parents:
        if isinstance(node, list):
            node = _list_item(node, part, key, where)
        elif isinstance(node, dict):
            node = node.setdefault(part, {})
    if isinstance(node, list):
        _list_item(node, last, key, where)
        node[int(last)] = value
    elif isinstance(node, dict) and last:
        node[last] = value
    else:
        parent = ".".join(parents)
        what = f'"{parent}" is not a table' if last else "its last part is empty"
        raise ConfigError([Problem(where, f'"{key}" cannot be set: {what}')])


def dotted_items(tables: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value and empty table with its dotted key; the tables in a list are numbered."""
    for name, value in tables.items():
        if isinstance(value, list) and value and all(isinstance(v, dict) for v in value):
            value = dict(enumerate(value))
        if isinstance(value, dict) and value:
            yield from dotted_items(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _dotted_keys(tables: Mapping[str, Any]) -> list[str]:
    """Return the dotted keys of all values, without empty tables."""
    return [key for key, value in dotted_items(tables) if value != {}]


def _set_origin(origins: dict[str, str], key: str, value: Any, source: str) -> None:
    """Record the origin of an override; forget the origins of the keys that it replaces."""
    for present in [old for old in origins if old == key or old.startswith(f"{key}.")]:
        del origins[present]
    origins.update(dict.fromkeys(_dotted_keys({key: value}), source))


def _list_item(node: list[Any], part: str, key: str, where: str) -> Any:
    if part.isdigit() and int(part) < len(node):
        return node[int(part)]
    count = format_count(len(node), "item")
    what = f"the list has {count}, so the index must be below {len(node)}" if node else ""
    raise ConfigError([Problem(where, f'"{key}": {what or "the list is empty"}, got "{part}"')])


def _read_tables(path: Path) -> dict[str, Any]:
    try:
        return parse(_read_text(path), str(path))
    except ConfigError:
        if path.suffix == ".toml":
            raise
        raise UsageError(
            f"{path}: is not a run file, because it is not valid TOML",
            hint=f"if it is your data, `tunesmith init --data {shlex.quote(str(path))}` writes a "
            "run file for it",
        ) from None


def _read_text(path: Path) -> str:
    if not path.is_file():
        raise UsageError(
            f"{path}: no such run file", hint="`tunesmith init` writes one to start from"
        )
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        what = f"the file is not valid UTF-8 at byte {error.start}"
        raise ConfigError([Problem(str(path), what)]) from None


def _syntax_problem(text: str, name: str, message: str) -> Problem:
    """Turn ``... (at line 3, column 7)`` into a problem that shows the line and a caret."""
    what, _, position = message.partition(" (at line ")
    line, _, column = position.rstrip(")").partition(", column ")
    if not (line.isdigit() and column.isdigit()):
        return Problem(name, message)
    lines = text.splitlines()
    shown = lines[int(line) - 1] if int(line) <= len(lines) else ""
    caret = " " * (int(column) - 1) + "^"
    return Problem(f"{name}:{line}:{column}", f"{what[:1].lower()}{what[1:]}\n  {shown}\n  {caret}")

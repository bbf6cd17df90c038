"""Read another tool's configuration, and write it as a run file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w
import yaml

from tunesmith.errors import UsageError
from tunesmith.text import one_line
from tunesmith_plugins.commands.starter.translate import axolotl, llamafactory
from tunesmith_plugins.commands.starter.translate.translation import FindLoader, Outcome

MAX_FILE_BYTES = 1_000_000
TABLES = ("run", "model", "data", "technique")
"""The run file's tables, in order."""


def translate_file(path: Path, recognize: FindLoader) -> tuple[str, dict[str, Any], list[Outcome]]:
    """Return the name of the tool, the run file's tables, and the outcome of each key.

    Raises:
        UsageError: the file cannot be read, or is not from a known tool.
    """
    source = read_yaml(path)
    if "model_name_or_path" in source:
        tool, translate = "LLaMA-Factory", llamafactory.translate
    elif "base_model" in source:
        tool, translate = "axolotl", axolotl.translate
    else:
        raise UsageError(
            f"{path}: neither an axolotl config (no base_model) nor a LLaMA-Factory config (no "
            "model_name_or_path)",
            hint="add the missing key, or write a run file with `tunesmith init`",
        )
    keys, outcomes = translate(source, path.absolute().parent, recognize)
    return tool, nest_keys(keys), outcomes


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping with text keys.

    Raises:
        UsageError: the file cannot be read. If it is not valid YAML, the message contains the line.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UsageError(f"{path}: the file is larger than {MAX_FILE_BYTES:,} bytes")
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        what = getattr(error, "problem", None) or "cannot be parsed"
        raise UsageError(f"{where}: {one_line(str(what), 200)}") from None
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text in YAML"
        raise UsageError(f"{path}: {reason}") from None
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise UsageError(f"{path}: the top level of the file must be a mapping of keys to values")
    return found


def nest_keys(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return dotted keys as nested tables, in the run file's order."""
    tables: dict[str, Any] = {name: {} for name in TABLES}
    for key, value in keys.items():
        *path, last = key.split(".")
        table = tables
        for name in path:
            table = table.setdefault(name, {})
        table[last] = value
    for name in ("data", "technique"):
        tables[name] = {"use": tables[name].pop("use", ""), **tables[name]}
    return {name: table for name, table in tables.items() if table}


def to_toml(name: str, tool: str, tables: Mapping[str, Any], outcomes: Sequence[Outcome]) -> str:
    """Return the run file's text, with comments about the keys that are not translated."""
    lines = [f"# Translated from {one_line(name)}, a config file for {tool}."]
    missing = [outcome for outcome in outcomes if outcome.state == "not translated"]
    if missing:
        lines.append("# NOT translated, although it may affect what is learned:")
        lines += [f"#   {one_line(o.key)}: {o.value}: {one_line(o.text, 300)}" for o in missing]
    return "\n".join(lines) + "\n\n" + tomli_w.dumps(tables)

"""Ask before executing code that a stored run file refers to, unless the user has run it before.

A run folder can come from someone else, and its ``run.toml`` can name Python files. A command that
opens the folder, such as ``tunesmith chat``, must not execute them silently. Each user has a file
``trusted.jsonl`` in the state directory. It lists the code that ``tunesmith run`` executed or that
the user confirmed. The user must confirm other code on a terminal; without a terminal it is
refused.

Code outside the run folder is listed by path, because it is a file of this machine. Code inside the
run folder came with the folder, so it is listed with a checksum.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from tunesmith.errors import UsageError
from tunesmith.machine import expand_home, user_folder
from tunesmith.text import one_line

TRUST_VARIABLE = "TUNESMITH_TRUST_PLUGINS"
"""Environment variable; ``1`` runs the code that a run folder names without asking."""

_DATA_TABLES = ("run", "model", "data", "gate")
"""Tables that name models and files, but no function of a package."""
_CODE = (".py", ".yaml", ".yml")
"""Suffixes of files with code; task files of evaluation harnesses are YAML that names functions."""
_PACKAGE_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", re.ASCII)


def ask_on_terminal(items: Sequence[str], folder: Path) -> bool:
    """List the code and ask for confirmation; return False without a terminal."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    click.echo(f"{one_line(str(folder))} refers to code that you have not run before:", err=True)
    for item in items:
        click.echo(f"  {one_line(_shown(item), 200)}", err=True)
    return click.confirm("Read this code first. Execute it?", default=False, err=True)


def require_trusted(
    tables: Mapping[str, Any],
    folder: Path,
    *,
    trusted: bool = False,
    ask: Callable[[Sequence[str], Path], bool] = ask_on_terminal,
) -> None:
    """Check the code that a run folder names; ask the user about code that is not trusted yet.

    Code that the user allows is trusted from then on.

    Args:
        tables: the tables of the stored run file.
        folder: the run folder.
        trusted: True if the user has already allowed this code.
        ask: asks the user about new code.

    Raises:
        UsageError: the user refused, or there is no terminal to ask on.
    """
    known = _read_trusted()
    new = [item for item in find_code(tables, folder) if item not in known]
    if not new:
        return
    if not (trusted or os.environ.get(TRUST_VARIABLE) == "1" or ask(new, folder)):
        names = ", ".join(one_line(_shown(item), 120) for item in new)
        raise UsageError(
            f"{folder}: the run was not opened, because it refers to code that this user has not "
            f"run before: {names}",
            hint="read that code; if you trust it, add the option --trust-plugins",
        )
    add_trusted_code(new)


def trust_code(tables: Mapping[str, Any], folder: Path) -> None:
    """Add the code of a run that this user starts to the user's list of trusted code."""
    known = _read_trusted()
    add_trusted_code([item for item in find_code(tables, folder) if item not in known])


def find_code(tables: Mapping[str, Any], folder: Path) -> list[str]:
    """List the code that a run file makes tunesmith execute, and the files written elsewhere.

    This covers plugin files, functions (``file.py:name`` or ``package.module:name``), permission to
    execute generated code, and reporter paths outside the folder.
    """
    found: list[str] = []
    for table, content in tables.items():
        for key, text in _strings(content, table):
            file = text if text.endswith(_CODE) else text.rpartition(":")[0]
            if key.startswith("plugins.files"):
                found.append(_describe_file(text, folder))
            elif file.endswith(_CODE):
                found.append(_describe_file(file, folder))
            elif _may_be_function(table, key) and _PACKAGE_FUNCTION.fullmatch(text):
                found.append(f"function {text}")
            elif table == "reporters" and _leads_out(text, folder):
                found.append(f"writes {_absolute(text, folder)}")
    return list(dict.fromkeys(found))


def add_trusted_code(items: Sequence[str]) -> None:
    """Add code to the user's list of trusted code, unless the list cannot be written."""
    if not items:
        return
    path = trust_file()
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as stream:
            stream.writelines(json.dumps(item) + "\n" for item in items)


def trust_file() -> Path:
    """Return the path of the list of trusted code, in the user's state directory."""
    return user_folder("XDG_STATE_HOME", "~/.local/state") / "trusted.jsonl"


def _read_trusted() -> set[str]:
    try:
        lines = trust_file().read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    items = set()
    for line in lines:
        with suppress(ValueError, RecursionError):
            item = json.loads(line)
            items.add(item if isinstance(item, str) else "")
    return items


def _strings(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Yield all strings of a table at any depth, with their dotted keys."""
    if isinstance(value, str):
        yield key, value
    elif value is True and key.endswith(".execute_generated_code"):
        yield key, "generated:code"  # consent by the run's author, not by the user opening it
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _strings(item, f"{key}.{name}")
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _strings(item, key)


def _may_be_function(table: str, key: str) -> bool:
    return table not in _DATA_TABLES and not key.endswith((".use", ".system_prompt"))


def _absolute(text: str, folder: Path) -> Path:
    return (folder / expand_home(text)).resolve()


def _leads_out(text: str, folder: Path) -> bool:
    looks_like_path = "/" in text or text.startswith(("~", ".."))
    return looks_like_path and not _absolute(text, folder).is_relative_to(folder.resolve())


def _describe_file(file: str, folder: Path) -> str:
    """Return a file's absolute path, with its checksum if it is inside the run folder."""
    path = _absolute(file, folder)
    if not path.is_relative_to(folder.resolve()):
        return f"file {path}"
    try:
        checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        checksum = "cannot be read"
    return f"file {path} {checksum}"


def _shown(item: str) -> str:
    """Return an entry of the trust list for display, without its kind and checksum."""
    kind, _, rest = item.partition(" ")
    return f"{rest} (written)" if kind == "writes" else re.sub(r" [0-9a-f]{64}$", "", rest)

"""The folder that an assistant may use: paths and run files that lead out of it are refused."""

from __future__ import annotations

import glob
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.config.run_file import read_run_file
from tunesmith.config.trust import find_code
from tunesmith.errors import UsageError

MAX_MATCHES = 10_000
"""Most files that one pattern may match."""
_ADDRESS = re.compile(r"[A-Za-z][\w+.-]*://")


@dataclass(frozen=True)
class Workspace:
    """A folder, further folders that run files may read, and whether they may name code."""

    root: Path
    readable: Sequence[Path] = ()
    allows_code: bool = False

    def find(self, path: str) -> Path:
        """Return the absolute path of a file or folder below the root.

        Raises:
            UsageError: it is outside of the root, or does not exist.
        """
        try:
            found = (self.root / path).resolve(strict=True)
        except (OSError, ValueError, RuntimeError):
            found = None
        # One message: another one would tell which files exist outside.
        if found is None or not found.is_relative_to(self.root):
            raise UsageError(f"{path[:200]!r}: no such file or folder in the shared folder")
        return found

    def find_run_file(self, path: str, changes: Mapping[str, Any]) -> Path:
        """Return the path of a run file that reads only from the folders of this workspace.

        Raises:
            UsageError: it leads out of these folders, or names code.
            ConfigError: it is not a run file.
        """
        found = self.find(path)
        if not found.is_file():
            raise UsageError(f"{path[:200]!r}: is not a run file")
        read = read_run_file(found, sets=changes)
        for key, text in list_strings(read.tables):
            self._refuse_outside(key, text, read.folder)
        code = find_code(read.tables, read.folder)
        if code and not self.allows_code:
            raise UsageError(
                f"the run file names code, which this server does not execute: {code[0][:200]}",
                hint="the owner of the server can allow it with --allow-code",
            )
        return found

    def _refuse_outside(self, key: str, text: str, folder: Path) -> None:
        if _ADDRESS.match(text):
            raise UsageError(f"{key}: addresses are not allowed here, got {text[:100]!r}")
        if text.startswith("~") or "\0" in text:
            raise UsageError(f"{key}: must be a path in the shared folder, got {text[:100]!r}")
        if key.endswith("_env"):
            raise UsageError(f"{key}: environment variables are not allowed here")
        # A prompt or query is checked like a path, too: no form of text excludes that it is one.
        for path in itertools.chain([folder / text], self._matches(text, folder)):
            try:
                resolved = path.resolve()
            except (OSError, RuntimeError):
                continue  # a circle of links
            if not any(resolved.is_relative_to(root) for root in (self.root, *self.readable)):
                raise UsageError(
                    f"{key}: leads out of the shared folder: {text[:100]!r}",
                    hint="the owner of the server can allow a folder with --read",
                )

    def _matches(self, text: str, folder: Path) -> Iterator[Path]:
        if glob.has_magic(text):
            found = glob.iglob(text, root_dir=folder, recursive=True)
            for number, name in enumerate(found):
                if number == MAX_MATCHES:
                    raise UsageError(f"{text[:100]!r}: matches more than {MAX_MATCHES:,} files")
                yield folder / name


def list_strings(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield the strings at any depth, also names in tables, with their dotted keys."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield key, name
            yield from list_strings(item, f"{key}.{name}".lstrip("."))
    elif isinstance(value, list):
        for item in value:
            yield from list_strings(item, key)

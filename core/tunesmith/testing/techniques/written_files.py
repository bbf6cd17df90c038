"""Observe which files are written while a technique trains."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any


def folder_hash(folder: Path) -> str:
    """Return the SHA-256 over the names and contents of the files in a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


_watchers: list[Callable[[str, tuple[Any, ...]], None]] = []
"""Functions that currently receive audit events; the list exists because audit hooks are
permanent."""


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    for watcher in _watchers:
        watcher(event, arguments)


_hooked: list[bool] = []


@contextmanager
def record_writes(allowed: Path, written: list[str]) -> Iterator[None]:
    """Append to ``written`` the paths outside ``allowed`` that are written, renamed or removed.

    Files in ``__pycache__`` and devices are ignored.
    """
    if not _hooked:
        sys.addaudithook(_audit)
        _hooked.append(True)

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        for path in _written_paths(event, arguments):
            absolute = os.path.abspath(path)
            if absolute.startswith((f"{allowed}{os.sep}", "/dev/", "/proc/")):
                continue
            if "__pycache__" not in absolute and absolute != str(allowed):
                written.append(absolute)

    _watchers.append(watch)
    try:
        yield
    finally:
        _watchers.remove(watch)


def _written_paths(event: str, arguments: tuple[Any, ...]) -> list[str]:
    """Return the paths that the call of an audit event will write; none for other events."""
    if event == "open":
        path, mode, flags = arguments
        writes = bool((flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        writes = writes or any(letter in (mode or "") for letter in "wax+")
        return [os.fsdecode(path)] if writes and isinstance(path, (str, bytes)) else []
    if event in ("os.mkdir", "os.remove", "os.rename", "os.truncate"):
        number = 2 if event == "os.rename" else 1
        # Descriptors of the folders that relative paths start from, as in shutil.rmtree, come last.
        folders = () if event == "os.truncate" else arguments[-number:]
        pairs = zip_longest(arguments[:number], folders, fillvalue=-1)
        return [
            os.path.join(_folder_of(descriptor), os.fsdecode(path))
            for path, descriptor in pairs
            if isinstance(path, (str, bytes, Path))
        ]
    return []


def _folder_of(descriptor: int) -> str:
    """Return the folder of an open descriptor; "" for the current folder, or if unknown."""
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}") if descriptor >= 0 else ""
    except OSError:
        return ""

"""The folder of a run: its paths, and how it is created and opened."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tunesmith.errors import UsageError
from tunesmith.machine import expand_home
from tunesmith.storage import atomic
from tunesmith.storage.atomic import DISK, Disk

RUN_FILES = frozenset(
    {"artifact", "checkpoints", "evaluations", "events.jsonl", "lease", "lock"}
    | {"postmortem.json", "report.json", "run.toml", "winner"}
)
"""Files and folders that belong to the run itself; a reporter must not write there."""
OTHER_FOLDERS = {
    "export.json": "an export; its README.md has the command that serves it",
    "evaluation.json": "an evaluation; its results are in evaluation.json",
    "adapter_config.json": "an adapter; only `tunesmith evaluate` accepts it without its run",
    "run.toml": "a folder with a run file, not a run yet; start one with `tunesmith run`",
}
"""Descriptions of folders that are not run folders, by the name of a file in them."""


@dataclass(frozen=True)
class RunFolder:
    """The paths inside a run's folder. The folder exists; its files may not exist yet."""

    path: Path

    @classmethod
    def create(cls, root: Path, name: str, *, disk: Disk = DISK) -> RunFolder:
        """Create a durable folder in ``root``, named after the time and ``name``."""
        with atomic.explain_os_errors(root):
            atomic.make_folder(root, disk)
            plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].strip("-") or "run"
            while True:
                path = root / f"{datetime.now():%Y-%m-%d_%H%M}_{plain}_{secrets.token_hex(2)}"
                with suppress(FileExistsError):  # another process has just created this folder
                    disk.mkdir(path)
                    break
            atomic.write_new_file(path / "lock", b"", disk)
            atomic.sync_folder(path, disk)
            atomic.sync_folder(root, disk)
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Open the folder of an existing run.

        Raises:
            UsageError: ``path`` is not the folder of a run, or contains a link that leads outside.
        """
        if not (path / "lock").is_file():
            message = "is not the folder of a run" if path.is_dir() else "no such folder"
            raise UsageError(f"{path}: {message}", hint=_describe_other(path))
        atomic.refuse_outside_links(path)
        return cls(path)

    @property
    def id(self) -> str:
        """The folder's name: date, time, the run's name and four random hexadecimal digits.

        For example ``2026-11-24_1402_tickets-lora_a1b2``.
        """
        return self.path.resolve().name

    def resolve_report_path(self, path: str) -> Path:
        """Return the path of a file that a reporter writes, relative to this folder or absolute.

        Raises:
            UsageError: the path is one of :data:`RUN_FILES` in this folder, or inside one of them.
        """
        target = Path(os.path.normpath(self.path.absolute() / expand_home(path)))
        for folder in (self.path.absolute(), self.path.resolve()):
            if target.is_relative_to(folder):
                # File systems may ignore case.
                names = [part.casefold() for part in target.relative_to(folder).parts[:1]]
                if RUN_FILES.issuperset(names):
                    raise UsageError("a reporter must not write to a file or folder of the run")
        return target

    @property
    def run_file(self) -> Path:
        return self.path / "run.toml"

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"


def find_runs(root: Path, depth: int = 2) -> Iterator[Path]:
    """Yield the run folders in a folder, at most ``depth`` levels deep, without following links."""
    try:
        folders = [Path(e.path) for e in os.scandir(root) if e.is_dir(follow_symlinks=False)]
    except OSError:
        return
    for folder in folders:
        if is_run(folder):
            yield folder
        elif depth > 1:
            yield from find_runs(folder, depth - 1)


def is_run(path: Path) -> bool:
    """Return True if a folder is the folder of a run: it has a lock, and a log or a run file."""
    return (path / "lock").is_file() and (
        (path / "events.jsonl").is_file() or (path / "run.toml").is_file()
    )


def _describe_other(path: Path) -> str:
    """Return a hint for a folder that is not a run: what it is, or where runs are."""
    for folder in path.absolute().parents:
        if (folder / "lock").is_file():
            return f"the folder is inside a run: {folder}"
    for name, kind in OTHER_FOLDERS.items():
        if (path / name).is_file():
            return f"it is {kind}"
    runs = sorted(lock.parent for lock in path.glob("*/lock"))
    if runs:
        return f"it contains runs, such as {runs[-1]}; `tunesmith runs {path}` lists them"
    return "`tunesmith run` prints the run folder; by default it is a folder in runs/"

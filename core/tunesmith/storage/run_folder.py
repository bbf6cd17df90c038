"""The folder of a run: its paths, and how it is created and opened."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tunesmith.errors import UsageError
from tunesmith.storage import atomic
from tunesmith.storage.atomic import (
    DISK,
    Disk,
)


@dataclass(frozen=True)
class RunFolder:
    """The paths inside a run's folder. The folder exists; its files may not exist yet."""

    path: Path

    @classmethod
    def create(cls, root: Path, name: str, *, disk: Disk = DISK) -> RunFolder:
        """Create a folder below ``root``, named after the time and ``name``, durable on return."""
        with atomic.explained(root):
            atomic.make_folder(root, disk)
            path = root / _run_id(name)
            while path.exists():
                path = root / _run_id(name)
            disk.mkdir(path)
            atomic.write_new(path / "lock", b"", disk)
            atomic.sync_folder(path, disk)
            atomic.sync_folder(root, disk)
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Open the folder of an existing run.

        Raises:
            UsageError: ``path`` is not the folder of a run, or a symbolic link leads out of it.
        """
        if not (path / "lock").is_file():
            message = "is not the folder of a run" if path.is_dir() else "no such folder"
            hint = "`tunesmith run` prints the run folder; by default it is a folder below runs/"
            raise UsageError(f"{path}: {message}", hint=hint)
        atomic.refuse_outside_links(path)
        return cls(path)

    @property
    def id(self) -> str:
        """The folder's name: date, time, name and four random digits.

        For example ``2026-11-24_1402_tickets-lora_a1b2``.
        """
        return self.path.resolve().name

    @property
    def run_file(self) -> Path:
        return self.path / "run.toml"

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"


def _run_id(name: str) -> str:
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].strip("-") or "run"
    return f"{datetime.now():%Y-%m-%d_%H%M}_{plain}_{secrets.token_hex(2)}"

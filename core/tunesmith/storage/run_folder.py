"""The folder of a run: what lies where in it, and how a new one is made."""

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
    """The places inside one run's folder. The folder exists; what it will hold may not yet."""

    path: Path

    @classmethod
    def create(cls, root: Path, name: str, *, disk: Disk = DISK) -> RunFolder:
        """A new folder below ``root``, named after the time and ``name``, durable on return."""
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
        """An existing run.

        Raises:
            UsageError: ``path`` is no run folder.
        """
        if not (path / "lock").is_file():
            what = "is not the folder of a run" if path.is_dir() else "no such folder"
            hint = "runs are the folders below `runs`, or below [run] folder"
            raise UsageError(f"{path}: {what}", hint=hint)
        return cls(path)

    @property
    def id(self) -> str:
        """Date, time, name and four random digits: ``2026-11-24_1402_tickets-lora_a1b2``."""
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

    @property
    def artifact(self) -> Path:
        return self.path / "artifact"

    @property
    def report(self) -> Path:
        return self.path / "report"


def _run_id(name: str) -> str:
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].strip("-") or "run"
    return f"{datetime.now():%Y-%m-%d_%H%M}_{plain}_{secrets.token_hex(2)}"

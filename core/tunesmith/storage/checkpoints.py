"""Save, verify and rotate the checkpoints of a run.

A checkpoint is committed atomically by :mod:`tunesmith.storage.manifest` and verified before it is
used. If verification fails, the checkpoint is renamed and the next older one is used.
"""

from __future__ import annotations

import re
import secrets
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import EnvironmentProblem, IntegrityError, TunesmithWarning
from tunesmith.events import JSON
from tunesmith.storage import atomic, manifest
from tunesmith.storage.atomic import DISK, Disk, is_folder
from tunesmith.storage.manifest import (
    FileChecksum,
    FileProblem,
    Manifest,
    read_manifest,
    verify_folder,
)

_STEP = re.compile(r"step-(\d{8}|[1-9]\d{8,})")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of ``step`` that passed verification: its files are as they were saved."""

    path: Path
    step: int
    meta: JSON
    files: Mapping[str, FileChecksum]
    best: bool = False


def _warn(message: str) -> None:
    warnings.warn(message, TunesmithWarning, stacklevel=3)


class Checkpoints:
    """The checkpoints of a run or of one of its stages: folders such as ``step-00000040``.

    Only the process that holds the run's lock may call ``save`` and ``newest``; other processes
    call ``newest(recover=False)``. ``on_problem`` receives one sentence about each checkpoint that
    is damaged or could not be deleted; by default it issues a warning. If ``owned`` is False, this
    object never changes the folder.
    """

    def __init__(
        self,
        folder: Path,
        *,
        keep: int = 2,
        on_problem: Callable[[str], None] = _warn,
        owned: bool = True,
        disk: Disk = DISK,
    ) -> None:
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}")
        self.folder = folder
        self.keep = keep
        self.on_problem = on_problem
        self.owned = owned
        self._disk = disk

    def save(
        self,
        step: int,
        write: Callable[[Path], None],
        *,
        meta: Mapping[str, Any] | None = None,
        best: bool = False,
    ) -> Path:
        """Commit the files that ``write(folder)`` writes as the checkpoint of ``step``.

        When this returns, the checkpoint survives a power cut. Until then, or if anything raises,
        earlier checkpoints are unchanged, even an earlier one of the same step. Afterwards, old
        checkpoints are deleted, except for the newest ``keep``, this one, and the one last saved as
        ``best``. If one cannot be deleted, this is reported and the run continues.

        Raises:
            EnvironmentProblem: the disk is full (the message has free and needed bytes), failing or
                read-only.
            IntegrityError: ``write`` created a symbolic link, a special file or a manifest.
        """
        if step < 0:
            raise ValueError(f"step must be at least 0, got {step}")
        if not self.owned:
            what = "only the process that holds the run's lock may save"
            raise RuntimeError(f"{self.folder}: {what}")
        target = self.folder / f"step-{step:08d}"
        previous = self._previous_manifest(step)
        manifest_without_files = Manifest(
            meta=dict(meta or {}),
            step=step,
            best=best,
            previous={"step": previous.step, "seal": previous.seal} if previous else None,
        )
        kept = self.steps()
        expected = manifest.folder_size(self._path(kept[-1])) if kept else 0
        manifest.commit_with_manifest(
            target, write, manifest_without_files, expected=expected, disk=self._disk
        )
        self._rotate(step)
        return target

    def steps(self) -> list[int]:
        """List the steps of all checkpoints, oldest first, without verifying them."""
        if not self.folder.is_dir():
            return []
        found = (_STEP.fullmatch(path.name) for path in self.folder.iterdir() if is_folder(path))
        return sorted(int(name[1]) for name in found if name)

    def newest(self, *, recover: bool = True) -> Checkpoint | None:
        """Return the newest checkpoint that passes verification, or None if no checkpoint does.

        A damaged checkpoint is reported, renamed to ``.bad-step-...`` and ignored from then on, and
        the next older one is tried. ``recover=False`` renames nothing.

        Raises:
            EnvironmentProblem: the folder could not be read.
        """
        recover = recover and self.owned
        if recover and self.folder.is_dir():
            with atomic.explain_os_errors(self.folder):
                atomic.recover_replacements(self.folder, self._disk)
        return self._first_valid(reversed(self.steps()), recover)

    def best(self) -> Checkpoint | None:
        """Return the newest checkpoint that was saved as best and passes verification, or None."""
        marked = [step for step in self.steps() if self._is_marked_best(step)]
        return self._first_valid(reversed(marked), recover=False)

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def _first_valid(self, steps: Iterable[int], recover: bool) -> Checkpoint | None:
        for step in steps:
            path = self._path(step)
            problems = verify_folder(path, disk=self._disk)
            if not problems:
                found = read_manifest(path, disk=self._disk)
                return Checkpoint(path, step, found.meta, found.files, found.best)
            if path.exists():  # if it is gone, the run that holds the lock has just deleted it
                self._set_aside(path, problems, recover)
        return None

    def _set_aside(self, path: Path, problems: list[FileProblem], recover: bool) -> None:
        """Report a damaged checkpoint and, with ``recover``, rename it."""
        listed = "; ".join(map(str, problems[:5])) + ("; ..." if len(problems) > 5 else "")
        result = "using an older one"
        if recover:
            bad = path.with_name(f".bad-{path.name}")
            while bad.exists():
                bad = path.with_name(f".bad-{path.name}-{secrets.token_hex(2)}")
            try:
                self._disk.rename(path, bad)
                result = f"renamed to {bad.name}, using an older one"
            except OSError as error:
                result = f"could not be renamed ({error}), using an older one"
        self.on_problem(f"{path}: the checkpoint is damaged: {listed}; {result}")

    def _previous_manifest(self, step: int) -> Manifest | None:
        for earlier in reversed([known for known in self.steps() if known < step]):
            with suppress(IntegrityError, EnvironmentProblem, OSError):
                return read_manifest(self._path(earlier), disk=self._disk)
        return None

    def _is_marked_best(self, step: int) -> bool | None:
        """Return True if the step was saved as best; None if its manifest cannot be read."""
        try:
            return read_manifest(self._path(step), disk=self._disk).best
        except IntegrityError:
            return None

    def _rotate(self, saved: int) -> None:
        """Delete old checkpoints; ``saved`` was just committed, so a valid one always remains.

        A checkpoint with an unreadable manifest might be the best one, so it is kept until
        ``newest`` verifies it.
        """
        try:
            marks = {step: self._is_marked_best(step) for step in self.steps()}
            best = [step for step, mark in marks.items() if mark][-1:]
            kept = {saved, *best, *list(marks)[-self.keep :]}
            for step, mark in marks.items():
                if step not in kept and mark is not None:
                    atomic.delete_folder(self._path(step), self._disk)
        except OSError as error:
            self.on_problem(f"{self.folder}: an old checkpoint could not be deleted: {error}")

"""Checkpoints: committed whole, verified before they are used, rotated."""

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
from tunesmith.storage.atomic import (
    DISK,
    Disk,
    is_folder,
)
from tunesmith.storage.manifest import (
    FileSum,
    Manifest,
    Problem,
    read_manifest,
    verify,
)

_STEP = re.compile(r"step-(\d{8}|[1-9]\d{8,})")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was verified when it was returned: every file is what was saved."""

    path: Path
    step: int
    meta: JSON
    files: Mapping[str, FileSum]
    best: bool = False


def _warn(message: str) -> None:
    warnings.warn(message, TunesmithWarning, stacklevel=3)


class Checkpoints:
    """The checkpoints of one run, or of one stage of it: ``step-00000040`` and so on.

    ``save`` and ``newest`` belong to the process that holds the run's lock; anybody else looks
    with ``newest(repair=False)``. ``on_problem`` is told, in one sentence, of everything that was
    found damaged or could not be removed; left alone, it warns. With ``owned`` false this process
    only looks.
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
        """Commit what ``write(folder)`` puts into an empty folder as the checkpoint of ``step``.

        Once this returns, the checkpoint survives a power cut. Until then, and if anything raises,
        the ones before stand untouched; a save of the same step again replaces it just as safely.
        Then the old ones go, all but the newest ``keep``, this one, and the one last saved as
        ``best``. An old one that cannot be deleted is reported, and does not stop the run.

        Raises:
            EnvironmentProblem: the disk is full, failing, read-only; both sizes are in the message.
            IntegrityError: ``write`` made a symbolic link, a special file or a manifest.
        """
        if step < 0:
            raise ValueError(f"a step is at least 0, got {step}")
        if not self.owned:
            raise RuntimeError(f"{self.folder}: only the process that holds the run may save")
        target = self.folder / f"step-{step:08d}"
        before = self._before(step)
        head = Manifest(
            meta=dict(meta or {}),
            step=step,
            best=best,
            previous={"step": before.step, "seal": before.seal} if before else None,
        )
        manifest.commit(target, write, head, expected=self._last_size(), disk=self._disk)
        self._rotate(step)
        return target

    def steps(self) -> list[int]:
        """The steps that were committed, oldest first, verified or not."""
        if not self.folder.is_dir():
            return []
        found = (_STEP.fullmatch(path.name) for path in self.folder.iterdir() if is_folder(path))
        return sorted(int(name[1]) for name in found if name)

    def newest(self, *, repair: bool = True) -> Checkpoint | None:
        """The newest checkpoint whose every file verifies; None if there is none.

        One that fails is reported, renamed to ``.bad-step-...`` and left alone from then on, and
        the next older one is tried. ``repair=False`` renames nothing.

        Raises:
            EnvironmentProblem: the machine kept us from looking.
        """
        repair = repair and self.owned
        if repair and self.folder.is_dir():
            with atomic.explained(self.folder):
                atomic.heal(self.folder, self._disk)
        return self._first_valid(reversed(self.steps()), repair)

    def best(self) -> Checkpoint | None:
        """The checkpoint last saved as best, verified; None if there is none."""
        marked = [step for step in self.steps() if self._marked(step)]
        return self._first_valid(reversed(marked), repair=False)

    def set_aside(self) -> list[Path]:
        """Checkpoints that failed verification and were kept for a look."""
        return sorted(self.folder.glob(".bad-step-*"))

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def _first_valid(self, steps: Iterable[int], repair: bool) -> Checkpoint | None:
        for step in steps:
            path = self._path(step)
            problems = verify(path, disk=self._disk)
            if not problems:
                found = read_manifest(path, disk=self._disk)
                return Checkpoint(path, step, found.meta, found.files, found.best)
            if path.exists():  # else the holder of the lock rotated it away under our eyes
                self._report_bad(path, problems, repair)
        return None

    def _report_bad(self, path: Path, problems: list[Problem], repair: bool) -> None:
        told = "; ".join(map(str, problems[:5])) + ("; ..." if len(problems) > 5 else "")
        then = "an older one is used"
        if repair:
            bad = path.with_name(f".bad-{path.name}")
            while bad.exists():
                bad = path.with_name(f".bad-{path.name}-{secrets.token_hex(2)}")
            try:
                self._disk.rename(path, bad)
                then = f"kept as {bad.name}, an older one is used"
            except OSError as error:
                then = f"could not be set aside ({error}), an older one is used"
        self.on_problem(f"{path}: checkpoint is damaged, {told}; {then}")

    def _before(self, step: int) -> Manifest | None:
        for earlier in reversed([known for known in self.steps() if known < step]):
            with suppress(IntegrityError, EnvironmentProblem, OSError):
                return read_manifest(self._path(earlier), disk=self._disk)
        return None

    def _last_size(self) -> int:
        steps = self.steps()
        return manifest.folder_size(self._path(steps[-1])) if steps else 0

    def _marked(self, step: int) -> bool | None:
        """Whether it was saved as best; None if its manifest does not tell."""
        try:
            return read_manifest(self._path(step), disk=self._disk).best
        except IntegrityError:
            return None

    def _rotate(self, saved: int) -> None:
        """Delete old checkpoints; ``saved`` was just committed, so a valid one always stays.

        One whose manifest cannot be read might be the best: it stays until ``newest`` judges it.
        """
        try:
            marks = {step: self._marked(step) for step in self.steps()}
            best = [step for step, mark in marks.items() if mark][-1:]
            kept = {saved, *best, *list(marks)[-self.keep :]}
            for step, mark in marks.items():
                if step not in kept and mark is not None:
                    atomic.retire(self._path(step), self._disk)
        except OSError as error:
            self.on_problem(f"{self.folder}: an old checkpoint could not be deleted, {error}")

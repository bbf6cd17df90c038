"""Run folders: one process at a time, an event log, checkpoints that are valid or not there.

::

    runs/2026-11-24_1402_tickets-lora_a1b2/
      run.toml                the resolved run file, written once
      lock                    held by the running process; never deleted
      events.jsonl            what the run said, one JSON object per line
      checkpoints/
        step-00000040/        files and MANIFEST.json
        .bad-step-00000060    failed verification, kept for a look, never read again
      artifact/               the result, committed like a checkpoint
      report/

How files become whole or absent is in :mod:`tunesmith.atomic`, how a folder proves itself in
:mod:`tunesmith.manifest`, the log in :mod:`tunesmith.eventlog`; the public names are all here.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import socket
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tunesmith import atomic, manifest
from tunesmith.atomic import (
    DISK,
    DOOMED,
    STAGING,
    Disk,
    free_bytes,
    require_space,
    write_atomic,
)
from tunesmith.errors import EnvironmentProblem, IntegrityError, TunesmithWarning, UsageError
from tunesmith.eventlog import EventLog, read_events
from tunesmith.events import JSON
from tunesmith.manifest import (
    MANIFEST,
    FileSum,
    Manifest,
    Problem,
    commit_folder,
    read_manifest,
    verify,
)

__all__ = [
    "MANIFEST",
    "Checkpoint",
    "Checkpoints",
    "Disk",
    "EventLog",
    "FileSum",
    "Holder",
    "Manifest",
    "Problem",
    "RunFolder",
    "commit_folder",
    "free_bytes",
    "lock",
    "read_events",
    "read_manifest",
    "require_space",
    "verify",
    "write_atomic",
]


# --- run folders -----------------------------------------------------------------------------


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


# --- the lock --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Holder:
    """A process that holds, or held, a run's lock. ``started`` is UTC, ISO 8601."""

    pid: int
    host: str
    boot_id: str
    started: str

    @classmethod
    def me(cls) -> Holder:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(os.getpid(), socket.gethostname(), _boot_id(), now)

    def may_live(self) -> bool:
        """False only if it certainly is dead: a process of this boot that is gone."""
        if (self.host, self.boot_id) != (socket.gethostname(), _boot_id()):
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except OSError:  # it lives and belongs to somebody else
            return True
        return True


def _boot_id() -> str:
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


@dataclass(frozen=True)
class Lock:
    """Proof that this process alone writes below ``folder``.

    ``crashed`` is the holder before us if it died without a goodbye, as after ``kill -9`` or
    when the machine ran out of memory.
    """

    folder: Path
    holder: Holder
    crashed: Holder | None = None


_held: set[int] = set()


def _forget_in_child() -> None:
    """A forked child lets go: a worker that outlives a killed run must not keep the run locked."""
    for fd in _held:
        os.close(fd)
    _held.clear()


os.register_at_fork(after_in_child=_forget_in_child)


@contextmanager
def lock(folder: Path, *, disk: Disk = DISK) -> Iterator[Lock]:
    """Hold a run's folder; a second holder, in this process or another, is refused at once.

    The kernel keeps the lock (``flock``) and frees it when the process ends, however it ends. The
    file is never deleted: whoever waits for a deleted file locks nothing. On entry, what crashed
    writers left behind is cleared away or put back.

    Raises:
        UsageError: the run is in use; the message says by whom.
        EnvironmentProblem: the file system has no locks, is full or read-only.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder")
    with atomic.explained(folder):
        fd = disk.open(folder / "lock", os.O_RDWR | os.O_CREAT)
        _held.add(fd)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            crashed = _holder(fd)
            me = Holder.me()
            disk.truncate(fd, 0)
            atomic.write_all(fd, json.dumps(asdict(me)).encode(), disk)
        except BaseException as error:
            busy = _in_use(folder, fd) if isinstance(error, BlockingIOError) else None
            _release(fd, disk)
            if busy is None:
                raise
            raise busy from None
    try:
        with suppress(OSError):  # debris is no reason not to run, and is never read
            _sweep(folder, disk)
        yield Lock(folder, me, crashed)
    finally:
        if fd in _held:  # not in a forked child
            with suppress(OSError):
                disk.truncate(fd, 0)
        with suppress(OSError):
            _release(fd, disk)


def _release(fd: int, disk: Disk) -> None:
    if fd in _held:
        _held.discard(fd)
        fcntl.flock(fd, fcntl.LOCK_UN)  # closing would leave it to a child that is just being born
        disk.close(fd)


def _holder(fd: int) -> Holder | None:
    """Who wrote itself into the lock file; None if nobody did."""
    try:
        return Holder(**json.loads(os.pread(fd, 4096, 0)))
    except (ValueError, TypeError):
        return None


def _in_use(folder: Path, fd: int) -> UsageError:
    """The refusal. The holder may be about to write its name over a dead one's: look again."""
    deadline = time.monotonic() + 0.5
    while (holder := _holder(fd)) is None or not holder.may_live():
        if time.monotonic() > deadline:
            break
        time.sleep(0.01)
    who = f"by pid {holder.pid} on {holder.host}" if holder else "by another process"
    since = f", which started at {holder.started}" if holder else ""
    return UsageError(
        f"{folder}: run is in use {who}",
        hint=f"wait for that process{since}, or stop it",
    )


def _sweep(folder: Path, disk: Disk) -> None:
    """Clear what crashed writers left, everywhere but in committed folders."""
    atomic.heal(folder, disk)
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith((STAGING, DOOMED)):
            atomic.discard(entry, disk)
        elif _is_folder(entry) and not (entry / MANIFEST).exists():
            _sweep(entry, disk)


# --- checkpoints -----------------------------------------------------------------------------


_STEP = re.compile(r"step-(\d{8}|[1-9]\d{8,})")


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


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
        found = (_STEP.fullmatch(path.name) for path in self.folder.iterdir() if _is_folder(path))
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

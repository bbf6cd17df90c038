"""The lock of a run folder: one process at a time writes there."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from tunesmith.errors import UsageError
from tunesmith.storage import atomic
from tunesmith.storage.atomic import (
    DISK,
    DOOMED,
    STAGING,
    Disk,
    is_folder,
)
from tunesmith.storage.manifest import (
    MANIFEST,
)


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
        elif is_folder(entry) and not (entry / MANIFEST).exists():
            _sweep(entry, disk)

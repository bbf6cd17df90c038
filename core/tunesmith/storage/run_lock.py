"""Lock a run folder, so that one process at a time writes to it."""

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
from tunesmith.storage.atomic import DISK, STAGING, TRASH, Disk, is_folder
from tunesmith.storage.manifest import MANIFEST


@dataclass(frozen=True)
class LockHolder:
    """The process, with id ``pid``, of a run's lock, now or before. ``started``: UTC, ISO 8601."""

    pid: int
    host: str
    boot_id: str
    started: str

    @classmethod
    def current(cls) -> LockHolder:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(os.getpid(), socket.gethostname(), _boot_id(), now)

    def may_be_alive(self) -> bool:
        """Return False only if the process ran since this machine's last boot, and has ended.

        A process of another machine or of an earlier boot cannot be checked.
        """
        if (self.host, self.boot_id) != (socket.gethostname(), _boot_id()):
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except OSError:  # it is alive, and belongs to another user
            return True
        return True


def _boot_id() -> str:
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


_locked_fds: set[int] = set()


def _close_in_child() -> None:
    """Close the inherited lock files in a forked child.

    A worker process that outlives a killed run must not keep the run locked.
    """
    for fd in _locked_fds:
        os.close(fd)
    _locked_fds.clear()


os.register_at_fork(after_in_child=_close_in_child)


@contextmanager
def lock(folder: Path, *, disk: Disk = DISK) -> Iterator[None]:
    """Lock a run's folder; a second lock, in this process or another, is refused at once.

    The kernel holds the lock (``flock``) and releases it when the process ends in any way. The lock
    file is never deleted: a process that opened a deleted file would lock nothing. On entry,
    leftovers of crashed processes are removed, and interrupted replacements are finished.

    Raises:
        UsageError: the run is in use, and the message names the process; or a symbolic link leads
            out of the folder.
        EnvironmentProblem: the file system does not support locks, is full or read-only.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder")
    atomic.refuse_outside_links(folder)
    with atomic.explained(folder):
        fd = disk.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
        _locked_fds.add(fd)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            disk.truncate(fd, 0)
            atomic.write_all(fd, json.dumps(asdict(LockHolder.current())).encode(), disk)
        except BaseException as error:
            busy = _in_use_error(folder, fd) if isinstance(error, BlockingIOError) else None
            _release(fd, disk)
            if busy is None:
                raise
            raise busy from None
    try:
        with suppress(OSError):  # leftovers are never read, so they need not stop the run
            _remove_leftovers(folder, disk)
        yield
    finally:
        if fd in _locked_fds:  # not in a forked child
            with suppress(OSError):
                disk.truncate(fd, 0)
        with suppress(OSError):
            _release(fd, disk)


def _release(fd: int, disk: Disk) -> None:
    if fd in _locked_fds:
        _locked_fds.discard(fd)
        # Closing alone is not enough: a child that is being forked may still have the file open.
        fcntl.flock(fd, fcntl.LOCK_UN)
        disk.close(fd)


def _read_holder(fd: int) -> LockHolder | None:
    """Read the holder from the lock file; None if it has none."""
    try:
        return LockHolder(**json.loads(os.pread(fd, 4096, 0)))
    except (ValueError, TypeError):
        return None


def _in_use_error(folder: Path, fd: int) -> UsageError:
    """Build the error that names the process which holds the lock.

    That process may have locked the file and not have written its name yet, so that an earlier
    holder's name is still there: wait for it for a moment.
    """
    deadline = time.monotonic() + 0.5
    while (holder := _read_holder(fd)) is None or not holder.may_be_alive():
        if time.monotonic() > deadline:
            break
        time.sleep(0.01)
    process = f"pid {holder.pid} on {holder.host}" if holder else "another process"
    since = f", started at {holder.started}" if holder else ""
    return UsageError(
        f"{folder}: run is in use by {process}{since}",
        hint="wait until that process has ended, or stop it",
    )


def _remove_leftovers(folder: Path, disk: Disk) -> None:
    """Remove what crashed processes left behind, in all folders that are not committed."""
    atomic.repair_replacements(folder, disk)
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith((STAGING, TRASH)):
            atomic.try_remove(entry, disk)
        elif is_folder(entry) and not (entry / MANIFEST).exists():
            _remove_leftovers(entry, disk)

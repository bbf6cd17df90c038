"""Lock a run folder, so that only one process at a time writes to it.

Two locks are taken. The kernel releases the first one (``flock``) when the process ends, but a file
system may not support it, or may not share it with other machines. The holder of a run therefore
also creates the file ``lease``, touches it every two seconds, and removes it at the end.

How a process decides whether the holder of the lease is alive:

* On the same machine, it looks up the holder's process.
* On another machine, it waits for the next touch. After twenty seconds without one, the holder
  counts as dead. The timeout runs on the waiting process's clock, so clock skew does not matter.

A holder that was only suspended finds another holder's lease when it wakes up, and exits. The
picture above :func:`_take_lease` shows how a lease passes from one process to the next.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from tunesmith.distributed import start_time
from tunesmith.errors import EnvironmentProblem, RunInUseError, UsageError
from tunesmith.signals import end_process
from tunesmith.storage import atomic
from tunesmith.storage.atomic import DISK, STAGING, TRASH, Disk, is_folder
from tunesmith.storage.manifest import MANIFEST
from tunesmith.text import format_duration, safe_text

LEASE_FILE = "lease"
HEARTBEAT_SECONDS = 2.0  # interval at which the holder touches the lease
HEARTBEAT_TIMEOUT_SECONDS = 20.0  # without a touch, a process on another machine counts as dead
SETTLE_SECONDS = 0.2  # time for concurrent writes to the leases to become visible
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS}


@dataclass(frozen=True)
class LockHolder:
    """A process that holds or held a run's lock.

    ``pid`` is its process id, and ``started`` the UTC time (ISO 8601) of its attempt to lock.
    """

    pid: int
    host: str
    process: str  # boot id, container and start time: see tunesmith.distributed.start_time
    started: str

    @classmethod
    def current(cls) -> LockHolder:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(os.getpid(), socket.gethostname(), start_time(os.getpid()), now)

    @classmethod
    def read(cls, folder: Path) -> LockHolder | None:
        """Read the holder from a run folder.

        The result is None if the lease is missing or unreadable.
        """
        leases, _ = _read_leases(folder)
        return cls.parse([b"", *leases.values()][-1])

    @classmethod
    def parse(cls, content: bytes) -> LockHolder | None:
        """Read the holder from the content of a lease; None if it is not readable."""
        try:
            holder = cls(**json.loads(content))
            return holder if isinstance(holder.process, str) else None
        except (ValueError, TypeError):
            return None

    def is_local(self) -> bool:
        """Return True if the process belongs to this machine, boot and container."""
        here = start_time(os.getpid()).rpartition(" ")[0]
        return here != "" and self.process.rpartition(" ")[0] == here

    def may_be_alive(self) -> bool:
        """Return False only if the process is local and has ended."""
        return not self.is_local() or start_time(self.pid) == self.process

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.host}, started at {self.started}"


_locked_fds: set[int] = set()


def _close_in_child() -> None:
    """Close inherited lock files, because a worker that survives its run would keep it locked."""
    for fd in _locked_fds:
        os.close(fd)
    _locked_fds.clear()


os.register_at_fork(after_in_child=_close_in_child)


@contextmanager
def lock(folder: Path, *, take_over: bool = False, disk: Disk = DISK) -> Iterator[None]:
    """Lock a run's folder; raise an error if this or another process has locked it already.

    The lock file is never deleted: a process that opened a deleted file would lock nothing.
    Entering the block removes leftovers of crashed processes and finishes interrupted
    replacements. If the holder is on another machine and no longer touches its lease, this process
    takes the run over if the file system grants the kernel's lock, or if ``take_over`` is True.

    Raises:
        RunInUseError: another process holds the lock; the message names it.
        UsageError: the folder does not exist, or contains a symbolic link that leads outside.
        EnvironmentProblem: the file system is full, read-only or not accessible to this user.
    """
    with ExitStack() as stack:
        with atomic.explain_os_errors(folder):
            if not folder.is_dir():
                raise UsageError(
                    f"{folder}: no such folder", hint="check the path of the run folder"
                )
            atomic.refuse_outside_links(folder)
            try:
                fd = disk.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
                _locked_fds.add(fd)
                stack.callback(_release, fd, disk)
                stack.enter_context(_hold_lease(folder, _flock(fd) or take_over, disk))
            except BlockingIOError:
                raise _in_use_error(folder) from None
            except FileNotFoundError:
                raise UsageError(f"{folder}: the folder was removed") from None
        with suppress(OSError):  # nothing reads leftovers, so failing to remove them is harmless
            _remove_leftovers(folder, disk)
        yield


@contextmanager
def lock_to_read(folder: Path) -> Iterator[None]:
    """Lock a run's folder while reading it, unless this user cannot write to the folder.

    Raises:
        TunesmithError: see :func:`lock`.
    """
    if all(os.access(path, os.W_OK) for path in (folder, folder / "lock")):
        with lock(folder):
            yield
    else:
        yield


def _flock(fd: int) -> bool:
    """Lock the file; return False if its file system does not support locks."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True


def _release(fd: int, disk: Disk) -> None:
    if fd in _locked_fds:  # not in a forked child
        _locked_fds.discard(fd)
        # Closing is not enough: a child that is being forked right now may still have it open.
        with suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_UN)
        with suppress(OSError):
            disk.close(fd)


# How the lease passes from one process to the next.
#
# A lease file names the process that wrote it. It is created with O_EXCL, so if several processes
# try, only one succeeds. The holder's file is `lease`. To replace a dead holder, a process makes a
# *claim*, a second lease file. The claim's name is a hash of the leases before it, so all processes
# that judge the same holder dead compete for the same file name.
#
#     files in the run folder                    state
#
#     (none)                                     free: the first to create `lease` holds the run
#     lease=A                                    A holds the run and touches `lease` every 2 s
#
#     lease=A  claim(A)=B                        A is dead; B waits a moment, then reads all again
#     lease=B                                    B renamed its claim to `lease` and holds the run
#
# `lease` is never deleted to replace a holder, so no third process can create it in between.
#
# What if a process dies or is slow?
#
# * The holder A dies: `lease=A` stays. Any process may claim it, as above.
# * The claimant B dies before its rename: its claim is now the last lease of a chain, and can be
#   claimed in the same way. C then moves up the chain, one rename at a time:
#
#     lease=A  claim(A)=B  claim(A,B)=C    ->    lease=A  claim(A)=C    ->    lease=C
#
# * D read `lease=A` and judges A dead, but is so slow that B already holds the run when D creates
#   claim(A). The chain of `lease=B` would continue with claim(B), so claim(A) is not part of it. D
#   reads the chain again, does not find its own claim at the end, removes it, and starts over.
# * B was slow, not dead, and renames its claim after C has renamed its own over it. B then moves
#   C's lease to where C wants it. Both read `lease`, and only C finds its own content there.
# * A was suspended, not dead: before its next touch, `_show_life` finds B's lease and ends A.
def _take_lease(folder: Path, may_take_over: bool, disk: Disk) -> bytes:
    """Create the lease, or replace a holder that has ended; return the content of the lease.

    Raises:
        BlockingIOError: the holder may be alive.
    """
    own = json.dumps(asdict(LockHolder.current())).encode()
    while True:
        leases, path = _read_leases(folder)
        if leases and not _has_ended(folder, leases, may_take_over):
            # The check may have taken seconds. If the leases have changed since, check again.
            if _read_leases(folder)[0] == leases:
                raise BlockingIOError
            continue
        try:
            atomic.write_new_file(path, own, disk)
            if not leases:
                return own
            time.sleep(SETTLE_SECONDS)  # another process may be writing the last lease
            if _read_leases(folder)[0] != {**leases, path: own}:
                atomic.try_remove(path, disk)  # it is outside the chain: another process was faster
                continue
            for target in reversed(leases):  # move the claim up the chain until it is `lease`
                with suppress(FileNotFoundError):  # another process of the chain has moved it up
                    disk.rename(path, target)
                path = target
            if _read_lease(folder / LEASE_FILE) == own:
                return own
        except FileExistsError:
            time.sleep(0.01)  # another process created this file first
        except BaseException:
            atomic.try_remove(path, disk)
            raise


def _read_leases(folder: Path) -> tuple[dict[Path, bytes], Path]:
    """Return the leases by path, the last claim at the end, and the next claim's path."""
    leases: dict[Path, bytes] = {}
    path = folder / LEASE_FILE
    while (content := _read_lease(path)) is not None:
        leases[path] = content
        digest = hashlib.sha256(repr([*leases.values()]).encode()).hexdigest()
        path = folder / f"{STAGING}{digest[:16]}"
    return leases, path


def _read_lease(path: Path) -> bytes | None:
    """Read a lease; return None if it does not exist, and b"" if it cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:  # a link without a target still occupies the name
        return b"" if path.is_symlink() else None
    except OSError:
        return b""


def _has_ended(folder: Path, leases: dict[Path, bytes], may_take_over: bool) -> bool:
    path, content = [*leases.items()][-1]
    holder = LockHolder.parse(content)
    if holder and holder.is_local():
        return not holder.may_be_alive()
    return may_take_over and _is_silent(folder, path, holder)


def _is_silent(folder: Path, path: Path, holder: LockHolder | None) -> bool:
    """Return True if a process on another machine does not touch the lease in time."""
    message = (
        f"{folder}: waiting up to {HEARTBEAT_TIMEOUT_SECONDS:g} s to see if "
        f"{holder or 'its process'} is still running"
    )
    print(safe_text(message), file=sys.stderr, flush=True)
    deadline, seen = time.monotonic() + HEARTBEAT_TIMEOUT_SECONDS, _last_sign(path)
    while (is_silent := _last_sign(path) == seen) and time.monotonic() < deadline:
        time.sleep(0.1)
    return is_silent


def _last_sign(path: Path) -> float:
    with suppress(OSError), path.open("rb") as file:
        return os.fstat(file.fileno()).st_mtime  # for an open file, NFS asks the server for it
    return 0.0


@contextmanager
def _hold_lease(folder: Path, may_take_over: bool, disk: Disk) -> Iterator[None]:
    own, ended, pid = _take_lease(folder, may_take_over, disk), threading.Event(), os.getpid()
    thread = threading.Thread(target=_show_life, args=(folder, own, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        if pid == os.getpid():  # not in a forked child
            ended.set()
            thread.join()
            for _ in range(2):  # a device may fail once
                if _read_lease(folder / LEASE_FILE) == own:
                    atomic.try_remove(folder / LEASE_FILE, disk)


def _show_life(folder: Path, own: bytes, ended: threading.Event) -> None:
    while not ended.wait(HEARTBEAT_SECONDS):
        found = _read_lease(folder / LEASE_FILE)
        # An unreadable lease (b"") may be a passing fault of the device, not another holder.
        if found not in (b"", own) and folder.is_dir():
            by = LockHolder.parse(found or b"") or "a process that has ended"
            message = safe_text(f"error: {folder}: the run was taken over by {by}")
            print(message, file=sys.stderr, flush=True)
            end_process(EnvironmentProblem.exit_code)
        with suppress(OSError):
            os.utime(folder / LEASE_FILE)


def _in_use_error(folder: Path) -> RunInUseError:
    """Build the error that names the process holding the lock.

    A new holder may have locked the file before it has written its lease, so an earlier holder's
    lease may still be there. Therefore, wait a moment for the new one.
    """
    deadline = time.monotonic() + 0.5
    while (holder := LockHolder.read(folder)) is None or not holder.may_be_alive():
        if time.monotonic() > deadline:
            break
        time.sleep(0.01)
    hint = "wait until that process has ended, or stop it"
    if holder is None or not holder.is_local():
        with suppress(OSError):
            os.utime(folder / "lock")  # compare times by the clock of the file system
        silence = _last_sign(folder / "lock") - _last_sign(folder / LEASE_FILE)
        silent = format_duration(max(0.0, silence))
        unlock = f"`tunesmith runs --unlock {folder}`"
        hint += f"; if that machine is dead (silent for {silent}), run {unlock}"
    who = holder or "another process"
    return RunInUseError(f"{folder}: the run is in use by {who}", hint=hint)


def _remove_leftovers(folder: Path, disk: Disk) -> None:
    """Remove leftovers of crashed processes from all folders that are not committed."""
    atomic.recover_replacements(folder, disk)
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith((STAGING, TRASH)):
            atomic.try_remove(entry, disk)
        elif is_folder(entry) and not (entry / MANIFEST).exists():
            _remove_leftovers(entry, disk)

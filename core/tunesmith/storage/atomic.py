"""Files and folders that are whole or absent, whatever happens while they are written.

The promise: after a crash, a kill, a full disk or a power cut, a path written through this module
holds what it held before or what it was to hold, never a part. It is kept in one way everywhere:
write under a ``.staging-`` name in the same folder, flush the bytes, then the names, rename,
flush the parent. Whole folders are committed so by :mod:`tunesmith.storage.manifest`.

Nothing here reads a hidden name as content. What a crash leaves behind is one of

    ``.staging-*``   unfinished: removed by the next holder of the run's lock
    ``.del-*``       on its way out: likewise
    ``.old-NAME``    NAME as it was before a replacement: put back if NAME is missing, else removed

POSIX only: it needs folders that can be flushed and a rename that replaces.
"""

from __future__ import annotations

import errno
import json
import math
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tunesmith.errors import EnvironmentProblem, UsageError
from tunesmith.events import JSON

STAGING, DOOMED, OLD = ".staging-", ".del-", ".old-"
_NUMBERS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class Disk:
    """Every system call of the write path: the seam where a test records, fails or kills.

    Production code uses :data:`DISK` and never thinks of it.
    """

    def open(self, path: Path, flags: int) -> int:
        return os.open(path, flags, 0o666)

    def read(self, fd: int, size: int) -> bytes:
        return os.read(fd, size)

    def write(self, fd: int, data: bytes | memoryview) -> int:
        return os.write(fd, data)

    def truncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def fsync(self, fd: int) -> None:
        os.fsync(fd)

    def close(self, fd: int) -> None:
        os.close(fd)

    def mkdir(self, path: Path) -> None:
        path.mkdir()

    def rename(self, source: Path, target: Path) -> None:
        source.rename(target)

    def unlink(self, path: Path) -> None:
        path.unlink()

    def rmdir(self, path: Path) -> None:
        path.rmdir()


DISK = Disk()


# --- space, and errors that say what to do ---------------------------------------------------


def readable(size: float) -> str:
    """A byte count for people, in the decimal units that disks are sold in: ``1.4 GB``."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def free_bytes(path: Path) -> int:
    """Bytes that this user may still write where ``path`` is, or would be created."""
    here = path.absolute()
    while not here.exists():
        here = here.parent
    return shutil.disk_usage(here).free


def require_space(path: Path, needed: int) -> None:
    """Say before the work, not after it, that ``needed`` bytes will not fit.

    Raises:
        EnvironmentProblem: with both numbers.
    """
    free = free_bytes(path)
    if free < needed:
        raise EnvironmentProblem(
            f"{path}: not enough space, {readable(needed)} needed, {readable(free)} free",
            hint="free some space, keep fewer checkpoints or choose a folder on another disk",
        )


_SPACE = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up"}
_DEVICE = {errno.EIO: "the disk reported an error", errno.EROFS: "the file system is read-only"}
_ACCESS = {
    errno.EACCES: "no permission",
    errno.EPERM: "not permitted",
    errno.ENAMETOOLONG: "the name is too long",
    errno.EMFILE: "too many open files",
    errno.ENFILE: "too many open files on this machine",
    errno.ENOLCK: "this file system offers no locks",
    errno.ENOTSUP: "this file system cannot do that",
}
_RESUME = "`tunesmith resume` continues from the last checkpoint"


def explain(error: OSError, path: Path, needed: int = 0) -> EnvironmentProblem | None:
    """What an operating system error means for the user; None if it is not the machine's fault."""
    if error.errno in _SPACE:
        wanted = f", at least {readable(needed)} needed" if needed else ""
        return EnvironmentProblem(
            f"{path}: {_SPACE[error.errno]}, {readable(free_bytes(path))} free{wanted}",
            hint=f"free some space; nothing saved earlier was harmed, and {_RESUME}",
        )
    if error.errno in _DEVICE:
        return EnvironmentProblem(
            f"{path}: {_DEVICE[error.errno]}, {error}",
            hint=f"check the disk or mount; nothing saved earlier was harmed, and {_RESUME}",
        )
    if error.errno in _ACCESS:
        return EnvironmentProblem(f"{path}: {_ACCESS[error.errno]}, {error}")
    return None


@contextmanager
def explained(path: Path, needed: int = 0) -> Iterator[None]:
    """Inside, errors of the machine become :class:`EnvironmentProblem`; others pass."""
    try:
        yield
    except OSError as error:
        problem = explain(error, path, needed)
        if problem is None:
            raise
        raise problem from error


# --- JSON ------------------------------------------------------------------------------------


def encode_json(value: Mapping[str, Any], *, indent: int | None = None) -> str:
    """ASCII-safe, strictly valid JSON that :func:`decode_json` reads back as it was.

    A number that JSON lacks is written as ``{"$number": "NaN"}``: the loss that stopped a run must
    reach the report, and the line must stay readable for every other tool.
    """
    try:
        return json.dumps(value, indent=indent, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return {"$number": "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"}
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def decode_json(text: bytes | str) -> JSON:
    """One JSON object.

    Raises:
        ValueError: if it is anything else.
    """
    try:
        value = json.loads(text, object_hook=_number)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _number(value: JSON) -> Any:
    if len(value) == 1 and isinstance(name := value.get("$number"), str):
        return _NUMBERS.get(name, value)
    return value


# --- files -----------------------------------------------------------------------------------


def temporary(prefix: str) -> str:
    """A hidden name that no reader takes for content and no other process chooses."""
    return f"{prefix}{os.getpid()}-{secrets.token_hex(4)}"


def write_atomic(path: Path, data: bytes | str, *, disk: Disk = DISK) -> None:
    """Replace ``path`` by ``data`` (text as UTF-8): afterwards it is whole, the old or the new.

    It returns when the new content would survive a power cut. If it raises, the old file stands as
    it was and nothing else is left behind.

    Raises:
        EnvironmentProblem: the disk is full, failing, read-only or closed to this user.
    """
    content = data.encode() if isinstance(data, str) else data
    staging = path.with_name(temporary(STAGING))
    with explained(path, needed=len(content)):
        try:
            write_new(staging, content, disk)
            disk.rename(staging, path)
        except BaseException:
            discard(staging, disk)
            raise
        sync_folder(path.parent, disk)


def write_all(fd: int, data: bytes, disk: Disk) -> None:
    """``os.write`` may take less than it was given; this may not."""
    rest = memoryview(data)
    while rest:
        rest = rest[disk.write(fd, rest) :]


def write_new(path: Path, data: bytes, disk: Disk) -> None:
    """Create a file and make its bytes durable; its name is not, until the folder is flushed."""
    fd = disk.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        write_all(fd, data, disk)
        disk.fsync(fd)
    finally:
        disk.close(fd)


def sync_folder(folder: Path, disk: Disk = DISK) -> None:
    """Make the names in ``folder`` durable: flushing a file does not keep its name."""
    fd = disk.open(folder, os.O_RDONLY)
    try:
        disk.fsync(fd)
    finally:
        disk.close(fd)


def make_folder(folder: Path, disk: Disk = DISK) -> None:
    """Create ``folder`` and what is missing above it, each name durable before the next."""
    if folder.is_dir():
        return
    make_folder(folder.parent, disk)
    try:
        disk.mkdir(folder)
    except FileExistsError:  # another process was faster, or
        if not folder.is_dir():
            raise UsageError(f"{folder}: a file of that name is in the way") from None
    sync_folder(folder.parent, disk)


def remove(path: Path, disk: Disk = DISK) -> None:
    """Delete a file or a whole folder; links are removed, never followed."""
    if path.is_symlink() or not path.is_dir():
        disk.unlink(path)
        return
    for entry in sorted(path.iterdir()):
        remove(entry, disk)
    disk.rmdir(path)


def discard(path: Path, disk: Disk = DISK) -> None:
    """Remove debris as far as the disk lets us; the next holder of the lock finishes it."""
    with suppress(OSError):
        remove(path, disk)


def retire(path: Path, disk: Disk = DISK) -> None:
    """Delete a committed folder: its name goes first, so that nobody meets half of it."""
    remove(_doom(path, disk), disk)


def _doom(path: Path, disk: Disk) -> Path:
    doomed = path.with_name(temporary(DOOMED))
    disk.rename(path, doomed)
    return doomed


def heal(folder: Path, disk: Disk = DISK) -> None:
    """Finish replacements in ``folder`` that a crash cut in two."""
    for old in sorted(folder.glob(f"{OLD}*")):
        target = old.with_name(old.name.removeprefix(OLD))
        if target.exists():
            discard(_doom(old, disk), disk)
        else:
            disk.rename(old, target)


def is_folder(path: Path) -> bool:
    """True for a folder that is no link to one."""
    return path.is_dir() and not path.is_symlink()

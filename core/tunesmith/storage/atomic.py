"""Write files and folders atomically, and explain errors of the operating system.

After a crash, a kill, a full disk or a power cut, a path written through this module has its old
content or its new content, never a part of it. A file is written in four steps::

    write   .staging-PID-xxxx    a hidden name in the same folder
    fsync   the file             its bytes are durable
    rename  .staging-... NAME    atomic, replaces the old file
    fsync   the folder           its name is durable

:mod:`tunesmith.storage.manifest` commits folders in the same way.

Readers ignore hidden names. A crash can leave these behind::

    .staging-*   unfinished; the next process that locks the run removes it
    .del-*       about to be deleted; removed in the same way
    .old-NAME    the former NAME during a replacement; renamed back if NAME is missing, or removed

POSIX only: this needs fsync for folders and a rename that replaces.
"""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tunesmith.errors import EnvironmentProblem, UsageError
from tunesmith.events import JSON
from tunesmith.machine import explain_os_error

STAGING, TRASH, REPLACED = ".staging-", ".del-", ".old-"
_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class Disk:
    """The system calls used for writing. Tests replace them to record calls or inject failures.

    Production code uses :data:`DISK`.
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


@contextmanager
def explain_os_errors(path: Path, needed: int = 0) -> Iterator[None]:
    """Convert the block's operating system errors to :class:`EnvironmentProblem`."""
    try:
        yield
    except OSError as error:
        problem = explain_os_error(error, path, needed)
        if problem is None:
            raise
        raise problem from error


def encode_json(value: Mapping[str, Any], *, indent: int | None = None) -> str:
    """Encode a value as JSON in ASCII, which :func:`decode_json` decodes to the same value.

    NaN and infinities, which JSON lacks, are written as objects such as ``{"$number": "NaN"}``. The
    report can then show the non-finite loss that stopped a run, and other tools can still parse the
    line.
    """
    try:
        return json.dumps(value, indent=indent, allow_nan=False)
    except ValueError:
        return json.dumps(_encode_non_finite(value), indent=indent, allow_nan=False)


def _encode_non_finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return {"$number": "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"}
    if isinstance(value, Mapping):
        return {key: _encode_non_finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encode_non_finite(item) for item in value]
    return value


def decode_json(text: bytes | str) -> JSON:
    """Decode a JSON object that :func:`encode_json` wrote.

    Raises:
        ValueError: the text is not a JSON object.
    """
    try:
        value = json.loads(text, object_hook=_decode_non_finite)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _decode_non_finite(value: JSON) -> Any:
    if len(value) == 1 and isinstance(name := value.get("$number"), str):
        return _NON_FINITE.get(name, value)
    return value


def temporary_name(prefix: str) -> str:
    """Return a hidden name that readers ignore and no other process uses."""
    return f"{prefix}{os.getpid()}-{secrets.token_hex(4)}"


def write_atomic(path: Path, data: bytes | str, *, disk: Disk = DISK) -> None:
    """Write ``data`` (text as UTF-8) to ``path`` atomically.

    When this returns, the new content survives a power cut. If it raises, the old file is unchanged
    and no other file is left behind.

    Raises:
        EnvironmentProblem: the disk is full, failing, read-only or not accessible to this user.
    """
    content = data.encode() if isinstance(data, str) else data
    staging = path.with_name(temporary_name(STAGING))
    with explain_os_errors(path, needed=len(content)):
        try:
            write_new_file(staging, content, disk)
            disk.rename(staging, path)
        except BaseException:
            try_remove(staging, disk)
            raise
        sync_folder(path.parent, disk)


def write_all(fd: int, data: bytes, disk: Disk) -> None:
    """Write all of ``data``; a single ``os.write`` may write only the start of it."""
    rest = memoryview(data)
    while rest:
        rest = rest[disk.write(fd, rest) :]


def write_new_file(path: Path, data: bytes, disk: Disk) -> None:
    """Create a file and flush its bytes; its name becomes durable when the folder is flushed."""
    fd = disk.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        write_all(fd, data, disk)
        disk.fsync(fd)
    finally:
        disk.close(fd)


def sync_folder(folder: Path, disk: Disk = DISK) -> None:
    """Make the names in ``folder`` durable, because flushing a file does not flush its name."""
    fd = disk.open(folder, os.O_RDONLY)
    try:
        disk.fsync(fd)
    finally:
        disk.close(fd)


def make_folder(folder: Path, disk: Disk = DISK) -> None:
    """Create ``folder`` and its missing parents, each durable before the next one.

    Raises:
        UsageError: one of these names already belongs to a file.
    """
    if folder.is_dir():
        return
    make_folder(folder.parent, disk)
    try:
        disk.mkdir(folder)
    except FileExistsError:  # another process has just created the folder, or it is a file
        if not folder.is_dir():
            what = "a file, not a folder" if folder.exists() else "a symbolic link without a target"
            raise UsageError(f"{folder}: is {what}") from None
    except FileNotFoundError:  # as in /proc, where nothing can be created
        raise EnvironmentProblem(
            f"{folder}: the folder cannot be created", hint="choose another folder"
        ) from None
    sync_folder(folder.parent, disk)


def remove(path: Path, disk: Disk = DISK) -> None:
    """Delete a file, or a folder with its content; links are removed, never followed."""
    if path.is_symlink() or not path.is_dir():
        disk.unlink(path)
        return
    for entry in sorted(path.iterdir()):
        remove(entry, disk)
    disk.rmdir(path)


def try_remove(path: Path, disk: Disk = DISK) -> None:
    """Remove a leftover if possible; otherwise the next process that locks the run removes it."""
    with suppress(OSError):
        remove(path, disk)


def delete_folder(path: Path, disk: Disk = DISK) -> None:
    """Delete a committed folder; rename it first, so that readers never find part of it."""
    remove(_move_to_trash(path, disk), disk)


def _move_to_trash(path: Path, disk: Disk) -> Path:
    trash = path.with_name(temporary_name(TRASH))
    disk.rename(path, trash)
    return trash


def recover_replacements(folder: Path, disk: Disk = DISK) -> None:
    """Finish or undo the replacements in ``folder`` that a crash interrupted.

    Raises:
        OSError: a file or folder could not be renamed or removed.
    """
    for old in sorted(folder.glob(f"{REPLACED}*")):
        target = old.with_name(old.name.removeprefix(REPLACED))
        if target.exists():
            try_remove(_move_to_trash(old, disk), disk)
        else:
            disk.rename(old, target)


def is_folder(path: Path) -> bool:
    """Return True if ``path`` is a folder and not a link to one."""
    return path.is_dir() and not path.is_symlink()


def refuse_outside_links(folder: Path) -> None:
    """Raise an error if a run folder has links that lead outside, or special files.

    A run folder from elsewhere could make this process write to, truncate or delete other files,
    or wait for a pipe forever. The path to the folder itself may contain links.

    Raises:
        UsageError: a link leads outside, or a name belongs to a pipe, socket or device.
    """
    root = folder.resolve()
    for here, folders, files in os.walk(root):
        for name in sorted(folders + files):
            is_link = os.path.islink(path := os.path.join(here, name))
            is_plain = is_link or os.path.isfile(path) or os.path.isdir(path)
            if not is_plain and os.path.lexists(path):  # otherwise it was removed just now
                raise UsageError(f"{path}: is a pipe, socket or device", hint="remove it")
            # Leftovers are only deleted, and deleting a link does not touch its target.
            if name.startswith((STAGING, TRASH)) or not is_link:
                continue
            if not Path(os.path.realpath(path)).is_relative_to(root):
                name = str(folder / os.path.relpath(path, root))
                raise UsageError(
                    f"{name}: is a symbolic link that points outside the run folder, to "
                    f"{os.readlink(path)}",
                    hint="replace it with the file or folder itself, or remove it",
                )

"""Commit folders (checkpoints and artifacts) atomically, and verify them with their manifests.

The steps of :func:`commit_folder`::

    mkdir   .staging-PID-xxxx            hidden, next to the target
    write   its files                    by the caller's function
    fsync   every file                   while hashing it

    write   MANIFEST.json                size and SHA-256 of every file, and a seal over itself
    fsync   every folder
    rename  the staging folder           to its final name
    fsync   the parent folder

The folder therefore exists with all its files or not at all. :func:`verify_folder` finds later
damage, down to one bit. The hashes detect accidents and edits, but they are not a signature: a user
who can write to the folder can also write a new manifest.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from tunesmith.errors import EnvironmentProblem, IntegrityError, TunesmithError, UsageError
from tunesmith.events import JSON
from tunesmith.machine import explain_os_error, free_bytes
from tunesmith.storage import atomic
from tunesmith.storage.atomic import DISK, REPLACED, STAGING, Disk

MANIFEST = "MANIFEST.json"
_FORMAT = 1
_STEP = re.compile(r"step-(\d{8,})$")
_FULL_BELOW = 1 << 20
"""If fewer bytes than this are free, an unknown library error is explained as a full disk."""


@dataclass(frozen=True)
class FileChecksum:
    """The ``size`` of a file in bytes and the SHA-256 of its content."""

    size: int
    sha256: str


@dataclass(frozen=True)
class FileProblem:
    """A file of a committed folder that differs from the manifest, and the difference."""

    file: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}: {self.message}"


@dataclass(frozen=True)
class Manifest:
    """The content of ``MANIFEST.json``, which describes the folder that contains it.

    ``seal`` is the SHA-256 of the rest of the manifest. ``step`` is set for a checkpoint.
    ``previous`` has the step and seal of the checkpoint before it, so the checkpoints of a run form
    a chain.
    """

    files: Mapping[str, FileChecksum] = field(default_factory=dict)
    meta: JSON = field(default_factory=dict)
    created: str = ""
    step: int | None = None
    best: bool = False
    previous: JSON | None = None
    seal: str = ""


def _encode(manifest: Manifest) -> bytes:
    document = {
        "format": _FORMAT,
        "step": manifest.step,
        "best": manifest.best,
        "created": manifest.created,
        "previous": manifest.previous,
        "meta": manifest.meta,
        "files": {name: vars(file) for name, file in sorted(manifest.files.items())},
    }
    seal = hashlib.sha256(atomic.encode_json(document).encode()).hexdigest()
    return atomic.encode_json({**document, "seal": seal}, indent=1).encode() + b"\n"


def _decode(raw: bytes) -> Manifest:
    """Parse a manifest.

    Raises:
        ValueError: the manifest is not exactly what :func:`_encode` wrote; one changed byte is
            enough.
    """
    document = atomic.decode_json(raw)
    found = document.pop("format", None)
    if found != _FORMAT:
        raise ValueError(f"has format {found!r}, but this version of tunesmith reads {_FORMAT}")
    try:
        files = {name: FileChecksum(**entry) for name, entry in document.pop("files").items()}
        manifest = Manifest(files=files, **document)
        same = _encode(manifest) == raw
    except (KeyError, TypeError, AttributeError):
        raise ValueError("has a missing or an unknown field") from None
    if not same:
        raise ValueError("was changed after it was written")
    for name, file in files.items():
        if not is_inside(name):
            raise ValueError(f"lists a file outside its folder: {name!r}")
        if type(file.size) is not int or type(file.sha256) is not str:
            raise ValueError(f"has no size and hash for {name!r}")
    return manifest


def is_inside(name: str) -> bool:
    """Return True if ``name`` is a normalized relative path without ``..``."""
    parts = PurePosixPath(name).parts
    return bool(parts) and ".." not in parts and name == "/".join(parts)


def read_manifest(folder: Path, *, disk: Disk = DISK) -> Manifest:
    """Read a folder's manifest; :func:`verify_folder` compares it with the files.

    Raises:
        IntegrityError: the manifest is missing, damaged, or belongs to another step.
    """
    path = folder / MANIFEST
    try:
        manifest = _decode(_read(path, disk))
    except FileNotFoundError:
        raise IntegrityError(f"{path}: is missing") from None
    except ValueError as error:
        raise IntegrityError(f"{path}: {error}") from None
    named = _STEP.search(folder.name)
    if named and manifest.step != int(named[1]):
        raise IntegrityError(f"{path}: belongs to step {manifest.step}, not to {int(named[1])}")
    return manifest


def _read(path: Path, disk: Disk) -> bytes:
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise ValueError("is not a regular file")
    blocks: list[bytes] = []
    try:
        _digest(path, disk, blocks=blocks)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        raise ValueError(f"cannot be read: {error}") from None
    return b"".join(blocks)


def verify_folder(folder: Path, *, disk: Disk = DISK) -> list[FileProblem]:
    """Compare a committed folder with its manifest; an empty list means that it is intact.

    Only regular files found in the folder are opened, so a name in a manifest cannot lead outside.

    Raises:
        EnvironmentProblem: the folder could not be read; the files may be intact.
    """
    with atomic.explain_os_errors(folder):
        try:
            manifest = read_manifest(folder, disk=disk)
        except IntegrityError as error:
            return [FileProblem(MANIFEST, error.message.removeprefix(f"{folder / MANIFEST}: "))]
        tree = _scan(folder)
        problems = {problem.file: problem for problem in tree.unsupported}
        for name, expected in manifest.files.items():
            message = _compare(folder / name, tree.files.get(name), expected, disk)
            if message:
                problems.setdefault(name, FileProblem(name, message))
        for name in tree.files.keys() - manifest.files.keys() - {MANIFEST}:
            problems[name] = FileProblem(name, "is not in the manifest")
    return [problems[name] for name in sorted(problems)]


def _compare(path: Path, size: int | None, expected: FileChecksum, disk: Disk) -> str | None:
    if size is None:
        return "is missing"
    if size != expected.size:
        change = "is truncated" if size < expected.size else "has grown"
        return f"{change}, has {size} bytes instead of {expected.size}"
    try:
        found = _digest(path, disk)
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return f"cannot be read: {error}"
    return None if found == expected else "was changed, its SHA-256 differs"


def _digest(path: Path, disk: Disk, *, blocks: list[bytes] | None = None) -> FileChecksum:
    """Compute a file's size and SHA-256; retry twice on device errors."""
    for _ in range(2):
        with suppress(OSError):
            return _digest_once(path, disk, blocks=blocks)
    return _digest_once(path, disk, blocks=blocks)


def _digest_once(
    path: Path, disk: Disk, *, flush: bool = False, blocks: list[bytes] | None = None
) -> FileChecksum:
    """Compute a file's size and SHA-256; ``flush`` fsyncs it, ``blocks`` collects its content."""
    fd = disk.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        digest, size = hashlib.sha256(), 0
        if blocks is not None:
            blocks.clear()
        while block := disk.read(fd, 1 << 20):
            digest.update(block)
            size += len(block)
            if blocks is not None:
                blocks.append(block)
        if flush:
            disk.fsync(fd)
        return FileChecksum(size, digest.hexdigest())
    finally:
        disk.close(fd)


@dataclass
class _Tree:
    """The content of a folder: files with sizes, folders (deepest first), and the rest."""

    files: dict[str, int] = field(default_factory=dict)
    folders: list[Path] = field(default_factory=list)
    unsupported: list[FileProblem] = field(default_factory=list)
    """Symbolic links and special files, which a committed folder must not contain."""


def _scan(folder: Path) -> _Tree:
    tree = _Tree()
    for here, folders, files in os.walk(folder, topdown=False, onerror=_raise_error):
        tree.folders.append(Path(here))
        for path in (Path(here, name) for name in sorted(folders + files)):
            name = path.relative_to(folder).as_posix()
            if path.is_symlink():
                tree.unsupported.append(FileProblem(name, "is a symbolic link"))
            elif path.is_file():
                tree.files[name] = path.stat().st_size
            elif not path.is_dir():
                tree.unsupported.append(FileProblem(name, "is not a regular file"))
    return tree


def _raise_error(error: OSError) -> None:
    """Raise an error of ``os.walk``, which treats an unreadable folder as empty by default."""
    raise error


def commit_folder(
    target: Path,
    write: Callable[[Path], None],
    meta: Mapping[str, Any] | None = None,
    *,
    disk: Disk = DISK,
) -> Path:
    """Fill a folder with ``write(staging)`` and commit it to ``target``, complete or not at all.

    A folder committed to ``target`` earlier stays complete until it is replaced. If anything
    raises, including ``write``, the old folder is unchanged and the staging folder is removed.

    Returns:
        ``target``.

    Raises:
        EnvironmentProblem: the disk is full, failing or not accessible to this user.
        IntegrityError: ``write`` created a link, a special file or a manifest.
        UsageError: ``target`` exists and was not committed by tunesmith.
    """
    return commit_with_manifest(target, write, Manifest(meta=dict(meta or {})), disk=disk)


def commit_with_manifest(
    target: Path,
    write: Callable[[Path], None],
    manifest: Manifest,
    *,
    expected: int = 0,
    disk: Disk = DISK,
) -> Path:
    """Commit an artifact or a checkpoint; ``manifest`` has no files yet.

    ``expected`` is the size of the previous such folder in bytes, for the error of a full disk.
    """
    # Encode now: errors come before gigabytes are written, and meta is what a reader will get.
    manifest = replace(manifest, meta=atomic.decode_json(atomic.encode_json(manifest.meta)))
    require_replaceable(target)
    staging = target.with_name(atomic.temporary_name(STAGING))
    try:
        atomic.make_folder(target.parent, disk)
        atomic.recover_replacements(target.parent, disk)
        disk.mkdir(staging)
        write(staging)
        _finish_staging(staging, manifest, disk)
        _rename_into_place(staging, target, disk)
    except BaseException as error:
        staged, full = folder_size(staging), _is_full(staging)  # measure before the removal
        atomic.try_remove(staging, disk)
        problem = _explain_failure(error, full, target, max(expected, staged))
        if problem is None:
            raise
        raise problem from error
    return target


def folder_size(folder: Path) -> int:
    """Return the bytes of all files under ``folder``; 0 if they cannot be counted."""
    try:
        return sum(_scan(folder).files.values())
    except OSError:
        return 0


def _is_full(path: Path) -> bool:
    try:
        return free_bytes(path) < _FULL_BELOW
    except OSError:
        return False


def _explain_failure(
    error: BaseException, full: bool, target: Path, needed: int
) -> EnvironmentProblem | None:
    """Explain an error of the machine, even if a library hides it; None for other errors.

    ``torch.save`` reports a full disk as ``RuntimeError: unexpected pos 576 vs 534``. safetensors
    raises another error, after it has freed the space again.
    """
    if isinstance(error, OSError) and (problem := explain_os_error(error, target, needed)):
        return problem
    if isinstance(error, TunesmithError) or not isinstance(error, Exception):
        return None
    if full or os.strerror(errno.ENOSPC) in str(error):
        return explain_os_error(OSError(errno.ENOSPC, ""), target, needed)
    return None


def require_replaceable(target: Path) -> None:
    """Raise a :class:`UsageError` if a file or folder exists that tunesmith did not commit."""
    if not target.exists() or (target / MANIFEST).is_file():
        return
    if not target.is_dir() or any(target.iterdir()):
        raise UsageError(
            f"{target}: already exists and was not written by tunesmith, so it is not replaced",
            hint="choose another name, or move that file or folder away",
        )


def _finish_staging(staging: Path, manifest: Manifest, disk: Disk) -> None:
    """Hash and flush every file, then write the manifest, then flush every folder."""
    tree = _scan(staging)
    unsupported = list(tree.unsupported)
    if MANIFEST in tree.files:
        unsupported.append(FileProblem(MANIFEST, "only tunesmith may write this file"))
    if unsupported:
        raise IntegrityError(f"{staging}: {unsupported[0]}")
    sums = {name: _digest_once(staging / name, disk, flush=True) for name in tree.files}
    created = datetime.now(UTC).isoformat(timespec="seconds")
    content = _encode(replace(manifest, files=sums, created=created))
    atomic.write_new_file(staging / MANIFEST, content, disk)
    for folder in tree.folders:
        atomic.sync_folder(folder, disk)


def _rename_into_place(staging: Path, target: Path, disk: Disk) -> None:
    """Rename ``staging`` to ``target``; keep the old folder until the new name is durable.

    The old folder is renamed to ``.old-NAME`` first, because a rename cannot replace a folder with
    content. For a moment, ``target`` is missing. If a crash hits that moment,
    :func:`tunesmith.storage.atomic.recover_replacements` renames the old folder back.
    """
    old = target.with_name(REPLACED + target.name)
    replacing = target.exists()
    if replacing:
        disk.rename(target, old)
    try:
        disk.rename(staging, target)
    except BaseException:
        if replacing:
            with suppress(OSError):
                disk.rename(old, target)
        raise
    atomic.sync_folder(target.parent, disk)
    if replacing:
        with suppress(OSError):  # `recover_replacements` removes the rest
            atomic.delete_folder(old, disk)

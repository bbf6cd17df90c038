"""Committed folders: a checkpoint or an artifact that can prove it is what was written.

``MANIFEST.json`` is written last into a folder that is still hidden. It holds size and SHA-256 of
every file and a seal over itself; then the folder is renamed into place. So a folder is there in
full or not at all, and damage that comes later, down to one bit, is found and named by
:func:`verify`. The hashes tell accidents and edits apart from what was saved; they are no
signature, whoever may write the folder may also write a new manifest.
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
from tunesmith.storage import atomic
from tunesmith.storage.atomic import DISK, OLD, STAGING, Disk

MANIFEST = "MANIFEST.json"
_FORMAT = 1
_STEP = re.compile(r"step-(\d{8,})$")
_FULL = 1 << 20
"""With fewer free bytes than this, an odd error of a library is taken for a full disk."""


@dataclass(frozen=True)
class FileSum:
    """What a file must be: its size in bytes and the SHA-256 of its content."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Problem:
    """One file of a committed folder that is not what the manifest says, and how."""

    file: str
    what: str

    def __str__(self) -> str:
        return f"{self.file}: {self.what}"


@dataclass(frozen=True)
class Manifest:
    """What ``MANIFEST.json`` records about the folder it lies in.

    ``seal`` is the SHA-256 of the rest of the manifest; ``previous`` names the checkpoint before
    and its seal, so that the checkpoints of a run form a chain.
    """

    files: Mapping[str, FileSum] = field(default_factory=dict)
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
    """Read back what was written; a single changed byte raises ValueError."""
    document = atomic.decode_json(raw)
    found = document.pop("format", None)
    if found != _FORMAT:
        raise ValueError(f"has format {found!r}, this version reads {_FORMAT}")
    try:
        files = {name: FileSum(**entry) for name, entry in document.pop("files").items()}
        manifest = Manifest(files=files, **document)
        same = _encode(manifest) == raw
    except (KeyError, TypeError, AttributeError):
        raise ValueError("lacks a field or has one too many") from None
    if not same:
        raise ValueError("was changed after it was written")
    for name, file in files.items():
        if not _is_plain(name):
            raise ValueError(f"names a file outside its folder, {name!r}")
        if type(file.size) is not int or type(file.sha256) is not str:
            raise ValueError(f"has no size and hash for {name!r}")
    return manifest


def _is_plain(name: str) -> bool:
    """Whether ``name`` stays below the folder: relative, no ``..``, spelled in one way only."""
    parts = PurePosixPath(name).parts
    return bool(parts) and ".." not in parts and name == "/".join(parts)


def read_manifest(folder: Path, *, disk: Disk = DISK) -> Manifest:
    """What the manifest says; :func:`verify` tells whether it is true.

    Raises:
        IntegrityError: there is none, it is damaged, or it belongs to another step.
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
        raise IntegrityError(f"{path}: is of step {manifest.step}, not of step {int(named[1])}")
    return manifest


def _read(path: Path, disk: Disk) -> bytes:
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise ValueError("is no regular file")
    blocks: list[bytes] = []
    try:
        _digest(path, disk, blocks=blocks)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        raise ValueError(f"cannot be read, {error}") from None
    return b"".join(blocks)


def verify(folder: Path, *, hashes: bool = True, disk: Disk = DISK) -> list[Problem]:
    """Everything about a committed folder that is not as it was committed; empty: all is well.

    Only regular files found in the folder are opened, so no name in a manifest leads elsewhere.
    ``hashes=False`` compares names and sizes alone, which costs no reading.

    Raises:
        EnvironmentProblem: the machine kept us from looking, which says nothing about the files.
    """
    with atomic.explained(folder):
        try:
            manifest = read_manifest(folder, disk=disk)
        except IntegrityError as error:
            return [Problem(MANIFEST, error.message.removeprefix(f"{folder / MANIFEST}: "))]
        tree = _scan(folder)
        problems = {problem.file: problem for problem in tree.odd}
        for name, expected in manifest.files.items():
            what = _compare(folder / name, tree.files.get(name), expected, hashes, disk)
            if what:
                problems.setdefault(name, Problem(name, what))
        for name in tree.files.keys() - manifest.files.keys() - {MANIFEST}:
            problems[name] = Problem(name, "is not in the manifest")
    return [problems[name] for name in sorted(problems)]


def _compare(
    path: Path, size: int | None, expected: FileSum, hashes: bool, disk: Disk
) -> str | None:
    if size is None:
        return "is missing"
    if size != expected.size:
        kind = "is truncated" if size < expected.size else "has grown"
        return f"{kind}, has {size} bytes of {expected.size}"
    if not hashes:
        return None
    try:
        found = _digest(path, disk)
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return f"cannot be read, {error}"
    return None if found == expected else "was changed, its SHA-256 differs"


def _digest(path: Path, disk: Disk, *, blocks: list[bytes] | None = None) -> FileSum:
    """Size and hash of a file, read up to three times while the device reports errors."""
    for _ in range(2):
        with suppress(OSError):
            return _digest_once(path, disk, blocks=blocks)
    return _digest_once(path, disk, blocks=blocks)


def _digest_once(
    path: Path, disk: Disk, *, flush: bool = False, blocks: list[bytes] | None = None
) -> FileSum:
    """With ``flush`` its bytes are made durable; ``blocks`` receives the content."""
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
        return FileSum(size, digest.hexdigest())
    finally:
        disk.close(fd)


@dataclass
class _Tree:
    """What lies below a folder: regular files with sizes, folders (deepest first), and the rest."""

    files: dict[str, int] = field(default_factory=dict)
    folders: list[Path] = field(default_factory=list)
    odd: list[Problem] = field(default_factory=list)


def _scan(folder: Path) -> _Tree:
    tree = _Tree()
    for here, folders, files in os.walk(folder, topdown=False, onerror=_fail):
        tree.folders.append(Path(here))
        for path in (Path(here, name) for name in sorted(folders + files)):
            name = path.relative_to(folder).as_posix()
            if path.is_symlink():
                tree.odd.append(Problem(name, "is a symbolic link"))
            elif path.is_file():
                tree.files[name] = path.stat().st_size
            elif not path.is_dir():
                tree.odd.append(Problem(name, "is no regular file"))
    return tree


def _fail(error: OSError) -> None:
    """A folder that cannot be listed is not an empty one."""
    raise error


def commit_folder(
    target: Path,
    write: Callable[[Path], None],
    meta: Mapping[str, Any] | None = None,
    *,
    disk: Disk = DISK,
) -> Path:
    """Fill a folder with ``write(staging)`` and put it at ``target``, complete or not at all.

    A folder committed to ``target`` earlier is replaced, and stands whole until the new one does.
    If anything raises, ``write`` included, the old one is still there and the staging is gone.

    Returns:
        ``target``.

    Raises:
        EnvironmentProblem: the disk is full, failing or closed to this user.
        IntegrityError: ``write`` made a link, a special file or a manifest of its own.
        UsageError: ``target`` holds something that was never committed here.
    """
    return commit(target, write, Manifest(meta=dict(meta or {})), disk=disk)


def commit(
    target: Path,
    write: Callable[[Path], None],
    manifest: Manifest,
    *,
    expected: int = 0,
    disk: Disk = DISK,
) -> Path:
    """The one mechanism behind artifacts and checkpoints; ``manifest`` still lacks the files.

    ``expected`` bytes is what such a folder took last time, for the message when the disk is full.
    """
    # As it will be read back; and what is no JSON fails before gigabytes are written.
    manifest = replace(manifest, meta=atomic.decode_json(atomic.encode_json(manifest.meta)))
    _refuse_foreign(target)
    staging = target.with_name(atomic.temporary(STAGING))
    try:
        atomic.make_folder(target.parent, disk)
        atomic.heal(target.parent, disk)
        disk.mkdir(staging)
        write(staging)
        _seal(staging, manifest, disk)
        _place(staging, target, disk)
    except BaseException as error:
        staged, full = folder_size(staging), _is_full(staging)  # asked before it is cleared away
        atomic.discard(staging, disk)
        problem = _blame(error, full, target, max(expected, staged))
        if problem is None:
            raise
        raise problem from error
    return target


def folder_size(folder: Path) -> int:
    """Bytes of all files below ``folder``; 0 where they cannot be counted."""
    try:
        return sum(_scan(folder).files.values())
    except OSError:
        return 0


def _is_full(path: Path) -> bool:
    try:
        return atomic.free_bytes(path) < _FULL
    except OSError:
        return False


def _blame(
    error: BaseException, full: bool, target: Path, needed: int
) -> EnvironmentProblem | None:
    """The machine's part in an error, also where a library hides it.

    ``torch.save`` reports a full disk as ``RuntimeError: unexpected pos 576 vs 534``, safetensors
    with an error of its own after it has freed the space again.
    """
    if isinstance(error, OSError) and (problem := atomic.explain(error, target, needed)):
        return problem
    if isinstance(error, TunesmithError) or not isinstance(error, Exception):
        return None
    if full or os.strerror(errno.ENOSPC) in str(error):
        return atomic.explain(OSError(errno.ENOSPC, ""), target, needed)
    return None


def _refuse_foreign(target: Path) -> None:
    if not target.exists() or (target / MANIFEST).is_file():
        return
    if not target.is_dir() or any(target.iterdir()):
        raise UsageError(
            f"{target}: exists and was not written by tunesmith, so it is not replaced",
            hint="choose another name, or move it away",
        )


def _seal(staging: Path, manifest: Manifest, disk: Disk) -> None:
    """Hash and flush every file, then write the manifest, then flush every folder."""
    tree = _scan(staging)
    odd = list(tree.odd)
    if MANIFEST in tree.files:
        odd.append(Problem(MANIFEST, "is written by tunesmith alone"))
    if odd:
        raise IntegrityError(f"{staging}: {odd[0]}")
    sums = {name: _digest_once(staging / name, disk, flush=True) for name in tree.files}
    created = datetime.now(UTC).isoformat(timespec="seconds")
    content = _encode(replace(manifest, files=sums, created=created))
    atomic.write_new(staging / MANIFEST, content, disk)
    for folder in tree.folders:
        atomic.sync_folder(folder, disk)


def _place(staging: Path, target: Path, disk: Disk) -> None:
    """Rename into place; what stood there waits as ``.old-NAME`` until the new name is durable."""
    old = target.with_name(OLD + target.name)
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
        with suppress(OSError):  # what remains of it is debris: `heal` knows the name
            atomic.retire(old, disk)

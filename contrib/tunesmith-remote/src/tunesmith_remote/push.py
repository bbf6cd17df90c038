"""Push a run folder: upload missing objects, create a snapshot, and delete old objects.

A run may be using the folder. Committed folders (checkpoints, models) are uploaded as their
manifests describe them, and every other file is read once, in its current state. The event log is
read between two commits. Therefore it refers only to models in the snapshot, and contains every
step of the snapshot's checkpoints.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from tunesmith.errors import IntegrityError, UsageError
from tunesmith.storage import MANIFEST, RunFolder, read_manifest, verify_folder
from tunesmith_remote.bucket import Bucket
from tunesmith_remote.snapshot import (
    OBJECTS,
    Mirror,
    Snapshot,
    StoredFile,
    find_mirror,
    is_checkpoint,
    is_skipped,
    list_numbers,
    name_snapshot,
    read_snapshots,
)

KEPT_SNAPSHOTS = 2
"""Number of snapshots to keep, so that a pull of the previous one can finish."""
MAX_ATTEMPTS = 5
"""Number of retries if the run deletes an old checkpoint during its upload."""


@dataclass(frozen=True)
class Pushed:
    """The result of a push. ``damaged`` lists skipped checkpoints with their reasons."""

    snapshot: Snapshot
    uploaded: int
    """Uploaded bytes."""
    damaged: Mapping[str, str]


def push_run(run: Path, bucket: Bucket) -> Pushed:
    """Push a run folder to its mirror.

    Raises:
        UsageError: the folder is not a run, or the mirror belongs to another run.
        IntegrityError: a committed folder other than a checkpoint is damaged.
        EnvironmentProblem: the bucket is not accessible. Its newest snapshot stays intact.
    """
    folder = RunFolder.open(run)
    mirror = find_mirror(run)
    if mirror is None or mirror.url != bucket.url:
        known = mirror or Mirror(url=bucket.url, writer=secrets.token_hex(8))
        mirror = known.model_copy(update={"url": bucket.url})
        require_own_bucket(bucket, mirror)  # Check the bucket before the folder records it.
        mirror.write(run)
    for attempt in range(1, MAX_ATTEMPTS + 1):
        try:
            return _Push(folder, bucket, mirror).run()
        except FileNotFoundError as error:
            if attempt == MAX_ATTEMPTS:
                raise UsageError(f"{error}: deleted during its upload") from None
    raise AssertionError


def require_own_bucket(bucket: Bucket, mirror: Mirror) -> tuple[list[int], Snapshot | None]:
    """Return the numbers of all snapshots and the newest intact one, which this copy may continue.

    Raises:
        UsageError: another run, or another copy of this run, was pushed to the URL.
    """
    numbers = list_numbers(bucket)
    newest = next((found for _, found in read_snapshots(bucket, numbers) if found), None)
    if newest and newest.writer != mirror.writer and newest.seal != mirror.follows:
        raise UsageError(
            f"{bucket.url}: {newest.host} pushed the run {newest.run} there at "
            f"{newest.created}, and this folder does not continue it",
            hint="pull the run into a new folder and continue there, or push to another URL",
        )
    return numbers, newest


@dataclass
class _Push:
    """One attempt to push: the files before it, those found, and what was uploaded."""

    folder: RunFolder
    bucket: Bucket
    mirror: Mirror
    before: Mapping[str, StoredFile] = field(default_factory=dict)
    """Files of the newest snapshot."""
    files: dict[str, StoredFile] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)
    uploaded: int = 0

    def run(self) -> Pushed:
        """Upload, create the snapshot, then delete old objects.

        Raises:
            FileNotFoundError: a file was deleted in the meantime.
        """
        numbers, newest = require_own_bucket(self.bucket, self.mirror)
        self.before = newest.files if newest else {}
        stored = self.bucket.list_sizes(OBJECTS)
        state = read_state(self.folder)
        for path, manifest in state.committed.items():
            self._add_committed(path, manifest, stored)
        for path in state.loose:
            content = state.log if path == self.folder.events else path.read_bytes()
            self._add_loose(path, content, stored)
        snapshot = Snapshot(
            number=max(numbers, default=0) + 1,
            run=self.folder.id,
            writer=self.mirror.writer,
            host=socket.gethostname(),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            files=dict(sorted(self.files.items())),
        )
        if not self.bucket.create(snapshot.name, snapshot.encode()):
            raise UsageError(
                f"{self.bucket.url}: another machine is pushing to this URL",
                hint="stop one of the two: only one copy of a run can be continued and pushed",
            )
        self._delete_old([*numbers, snapshot.number], stored)
        return Pushed(snapshot, self.uploaded, self.damaged)

    def _add_committed(self, path: Path, content: bytes, stored: Mapping[str, int]) -> None:
        """Upload the missing files of a committed folder, after verifying the whole folder."""
        name = path.relative_to(self.folder.path).as_posix()
        try:
            manifest = read_manifest(path)
        except IntegrityError as error:
            self._keep_pushed(path, error.message, stored)
            return
        if (path / MANIFEST).read_bytes() != content:  # The folder was replaced.
            raise FileNotFoundError(path)
        files = {MANIFEST: _describe(content)}
        files |= {n: StoredFile(size=f.size, sha256=f.sha256) for n, f in manifest.files.items()}
        missing = {n: f for n, f in files.items() if stored.get(f.sha256) != f.size}
        if missing and (problems := verify_folder(path)):
            self._keep_pushed(path, str(problems[0]), stored)
            return
        for file, entry in missing.items():
            self.bucket.upload(path / file, entry.name)
            self.uploaded += entry.size
        self.files |= {f"{name}/{file}": entry for file, entry in files.items()}

    def _keep_pushed(self, path: Path, reason: str, stored: Mapping[str, int]) -> None:
        """Use the earlier push of a damaged checkpoint, or omit the checkpoint."""
        if not path.exists():
            raise FileNotFoundError(path)
        name = path.relative_to(self.folder.path).as_posix()
        if not is_checkpoint(name):  # The event log refers to this folder.
            raise IntegrityError(f"{path}: {reason}")
        pushed = {n: file for n, file in self.before.items() if n.startswith(f"{name}/")}
        if pushed and all(stored.get(file.sha256) == file.size for file in pushed.values()):
            self.files |= pushed
        else:
            self.damaged[name] = reason

    def _add_loose(self, path: Path, content: bytes, stored: Mapping[str, int]) -> None:
        entry = _describe(content)
        if stored.get(entry.sha256) != entry.size:
            self.bucket.write(entry.name, content)
            self.uploaded += entry.size
        self.files[path.relative_to(self.folder.path).as_posix()] = entry

    def _delete_old(self, numbers: list[int], stored: Mapping[str, int]) -> None:
        """Delete old snapshots, and older objects that no remaining snapshot needs."""
        kept = [s for _, s in read_snapshots(self.bucket, numbers[-KEPT_SNAPSHOTS:]) if s]
        needed = {sha256 for snapshot in kept for sha256 in snapshot.object_sizes()}
        for number in numbers[:-KEPT_SNAPSHOTS]:
            self.bucket.delete(name_snapshot(number))
        for sha256 in stored.keys() - needed:
            self.bucket.delete(f"{OBJECTS}/{sha256}")


def _describe(content: bytes) -> StoredFile:
    return StoredFile(size=len(content), sha256=hashlib.sha256(content).hexdigest())


@dataclass(frozen=True)
class FolderState:
    """A run folder's single files, committed folders with their manifests, and event log."""

    loose: list[Path]
    committed: dict[Path, bytes]
    log: bytes


def read_state(folder: RunFolder) -> FolderState:
    """List a run folder, and read its event log at a moment when nothing is being committed.

    Raises:
        FileNotFoundError: a folder was deleted in the meantime, or commits never paused.
    """
    for _ in range(MAX_ATTEMPTS):
        loose, committed = list_files(folder.path)
        log = folder.events.read_bytes() if folder.events.is_file() else b""
        loose, again = list_files(folder.path)
        if committed == again:
            return FolderState(loose, committed, log)
    raise FileNotFoundError(folder.path)


def list_files(run: Path) -> tuple[list[Path], dict[Path, bytes]]:
    """Return the single files of a run folder, and its committed folders with their manifests.

    A checkpoint without a manifest counts as a damaged committed folder.
    """
    loose: list[Path] = []
    committed: dict[Path, bytes] = {}
    for here, folders, names in os.walk(run):
        path = Path(here)
        if path != run and (MANIFEST in names or is_checkpoint(path.relative_to(run).as_posix())):
            committed[path] = (path / MANIFEST).read_bytes() if MANIFEST in names else b""
            folders.clear()
            continue
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        loose += [file for file in _mirrored(run, path, names) if file.is_file()]
    return loose, committed


def _mirrored(run: Path, folder: Path, names: list[str]) -> Iterator[Path]:
    for path in (folder / name for name in sorted(names)):
        if not path.is_symlink() and not is_skipped(path.relative_to(run).as_posix()):
            yield path

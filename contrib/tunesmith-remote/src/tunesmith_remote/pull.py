"""Pull a run from a bucket into a new folder, and check every byte of it."""

from __future__ import annotations

import hashlib
import secrets
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from tunesmith.errors import IntegrityError, UsageError
from tunesmith.storage import MANIFEST
from tunesmith_remote.bucket import Bucket
from tunesmith_remote.snapshot import (
    Mirror,
    Snapshot,
    StoredFile,
    is_checkpoint,
    list_numbers,
    read_snapshots,
)


@dataclass
class Pulled:
    """A pulled snapshot. ``problems``: what is damaged in the bucket and was skipped."""

    snapshot: Snapshot
    problems: list[str] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes of the files of the snapshot."""
        return sum(file.size for file in self.snapshot.files.values())


def pull_run(bucket: Bucket, run: Path) -> Pulled:
    """Fetch the newest intact snapshot into a new folder, which appears when it is complete.

    A checkpoint with a damaged file is skipped, so that the run continues from an older one. If
    there is no older one, or another file is damaged, the snapshot before is used.

    Raises:
        UsageError: nothing was pushed to the URL, or the folder exists and is not empty.
        IntegrityError: no snapshot is intact.
        EnvironmentProblem: the bucket cannot be used.
    """
    if run.exists() and (not run.is_dir() or any(run.iterdir())):
        raise UsageError(
            f"{run}: exists already", hint="choose a new folder; it is never mixed with another"
        )
    numbers = list_numbers(bucket)
    if not numbers:
        raise UsageError(f"{bucket.url}: no run was pushed to it")
    problems: list[str] = []
    follows = ""
    for number, snapshot in read_snapshots(bucket, numbers):
        if snapshot is None:
            problems.append(f"snapshot {number} is damaged")
            continue
        follows = follows or snapshot.seal
        pulled = Pulled(snapshot, problems)
        if _fetch(bucket, pulled, run, follows):
            return pulled
    raise IntegrityError(f"{bucket.url}: no snapshot is intact: {'; '.join(problems)}")


def _fetch(bucket: Bucket, pulled: Pulled, run: Path, follows: str) -> bool:
    """Fetch a snapshot into a copy that continues ``follows``; return False if it is no use."""
    parent = run.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent, prefix=".pull-") as temporary:
        folder = Path(temporary, run.name)
        folder.mkdir()
        groups = group_by_commit(pulled.snapshot.files)
        damaged = {name: _fetch_files(bucket, files, folder) for name, files in groups.items()}
        damaged = {name: problem for name, problem in damaged.items() if problem}
        checkpoints = set(filter(is_checkpoint, groups))
        if damaged.keys() - checkpoints or (checkpoints and checkpoints <= damaged.keys()):
            problem = "; ".join(damaged.values())
            pulled.problems.append(f"snapshot {pulled.snapshot.number}: {problem}")
            return False
        for name, problem in damaged.items():
            pulled.problems.append(f"{name} is skipped: {problem}")
            shutil.rmtree(folder / name)
        (folder / "lock").touch()
        Mirror(url=bucket.url, writer=secrets.token_hex(8), follows=follows).write(folder)
        folder.rename(run)
    return True


def group_by_commit(files: Mapping[str, StoredFile]) -> dict[str, dict[str, StoredFile]]:
    """Return the files of each committed folder by its path; "" has all files outside of them."""
    committed = {
        path.rpartition("/")[0] for path in files if PurePosixPath(path).name == MANIFEST
    } - {""}
    groups: dict[str, dict[str, StoredFile]] = {"": {}}
    for path, file in files.items():
        parents = [str(parent) for parent in PurePosixPath(path).parents]
        name = next((parent for parent in parents if parent in committed), "")
        groups.setdefault(name, {})[path] = file
    return groups


def _fetch_files(bucket: Bucket, files: Mapping[str, StoredFile], folder: Path) -> str:
    """Fetch files; return the first problem, "" if they are intact."""
    for path, file in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if not bucket.download(file.name, target):
            return f"{path} is missing in the bucket"
        with target.open("rb") as content:
            if hashlib.file_digest(content, "sha256").hexdigest() != file.sha256:
                return f"{path} was changed in the bucket"
    return ""

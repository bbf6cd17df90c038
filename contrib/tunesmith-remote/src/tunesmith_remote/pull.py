"""Pull a run from a bucket into a new folder, and verify every file."""

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
    """A pulled snapshot. ``problems`` lists damaged items in the bucket that were skipped."""

    snapshot: Snapshot
    problems: list[str] = field(default_factory=list)

    @property
    def size(self) -> int:
        """The total size of the snapshot's files in bytes."""
        return sum(file.size for file in self.snapshot.files.values())


def pull_run(bucket: Bucket, run: Path) -> Pulled:
    """Download the newest intact snapshot into a new folder, which appears once it is complete.

    Skip a checkpoint with a damaged file, so that the run continues from an older one. If there is
    no older checkpoint, or another file is damaged, use the previous snapshot.

    Raises:
        UsageError: no run was pushed to the URL, or the folder exists and is not empty.
        IntegrityError: no snapshot is intact.
        EnvironmentProblem: the bucket is not accessible.
    """
    if run.exists() and (not run.is_dir() or any(run.iterdir())):
        raise UsageError(
            f"{run}: already exists",
            hint="choose a new folder, because a pull never merges with an existing run",
        )
    numbers = list_numbers(bucket)
    if not numbers:
        raise UsageError(
            f"{bucket.url}: no run was pushed to this URL",
            hint="check the URL; `tunesmith remote push RUN URL` pushes a run",
        )
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
    raise IntegrityError(
        f"{bucket.url}: no snapshot is intact: {'; '.join(problems)}",
        hint="push the run again from a machine that has it",
    )


def _fetch(bucket: Bucket, pulled: Pulled, run: Path, follows: str) -> bool:
    """Download a snapshot to a copy that continues ``follows``; return False if it is damaged."""
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
    """Group files by the committed folder that contains them.

    The key "" has the files that are not in a committed folder.
    """
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
    """Download files; return the first problem, or "" if all files are intact."""
    for path, file in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if not bucket.download(file.name, target):
            return f"{path} is missing from the bucket"
        with target.open("rb") as content:
            if hashlib.file_digest(content, "sha256").hexdigest() != file.sha256:
                return f"{path} was changed in the bucket"
    return ""

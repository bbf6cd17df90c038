"""Encode and decode snapshots, which are the files of a run at one moment, in a bucket.

::

    s3://bucket/runs/tickets/
      objects/SHA256            the content of a file, under its hash; never changed
      snapshots/00000012.json   path, size and hash of every file of the run, and a seal

A snapshot is created after all its objects, by a single request that fails if the number is taken.
An interrupted upload therefore leaves the previous snapshot intact. If two machines push at the
same time, one of the pushes fails.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from tunesmith.storage import is_inside, write_atomic
from tunesmith_remote.bucket import Bucket

OBJECTS, SNAPSHOTS = "objects", "snapshots"
MIRROR_FILE = "remote.json"
"""File in a run folder that names its mirror; it is not mirrored itself."""
SKIPPED = frozenset({"lock", "lease", MIRROR_FILE})
"""Files in a run folder that only concern one machine."""
_NAME = re.compile(r"(\d{8,})\.json")


def _check_path(path: str) -> str:
    """Validate the path of a mirrored file, relative to the run folder."""
    if not is_inside(path) or is_skipped(path):
        raise ValueError("this path is not that of a file in a run folder")
    return path


def is_skipped(path: str) -> bool:
    """Return True for files not to push: of one machine, unfinished, or failed verification."""
    return path in SKIPPED or any(part.startswith(".") for part in path.split("/"))


def is_checkpoint(name: str) -> bool:
    """Return True for a checkpoint. A run with an older checkpoint does not need it."""
    return PurePosixPath(name).parent.name == "checkpoints"


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class StoredFile(_Strict):
    """The size in bytes and the SHA-256 of a file. The hash is also the name of its object."""

    size: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")

    @property
    def name(self) -> str:
        """Key of the stored object: ``objects/`` and the file's SHA-256."""
        return f"{OBJECTS}/{self.sha256}"


class Snapshot(_Strict):
    """The files of a run by path, and who pushed them. ``created`` is a time in UTC (ISO 8601)."""

    format: Literal[1] = 1
    number: int = Field(ge=1)
    run: str
    writer: str
    """Random name of the copy of the run folder that was pushed."""
    host: str
    created: str
    files: Mapping[Annotated[str, AfterValidator(_check_path)], StoredFile]

    @property
    def name(self) -> str:
        """Key of the stored snapshot: ``snapshots/`` and its number."""
        return name_snapshot(self.number)

    @property
    def seal(self) -> str:
        """The SHA-256 of everything else in the snapshot."""
        return hashlib.sha256(_encode(self.model_dump())).hexdigest()

    def encode(self) -> bytes:
        """Return the snapshot as JSON with its seal."""
        return _encode({**self.model_dump(), "seal": self.seal}) + b"\n"

    def object_sizes(self) -> dict[str, int]:
        """Return the size of each object, by hash."""
        return {file.sha256: file.size for file in self.files.values()}


def _encode(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, indent=1).encode()


def decode_snapshot(content: bytes, number: int) -> Snapshot | None:
    """Decode a snapshot. Return None if it was changed, or was stored under another number."""
    try:
        document = json.loads(content)
        document.pop("seal")
        snapshot = Snapshot.model_validate(document)
    except (ValueError, ValidationError, KeyError, AttributeError, TypeError):
        return None
    return snapshot if snapshot.encode() == content and snapshot.number == number else None


def list_numbers(bucket: Bucket) -> list[int]:
    """Return the numbers of all snapshots, oldest first, including damaged snapshots."""
    found = (_NAME.fullmatch(name) for name in bucket.list_sizes(SNAPSHOTS))
    return sorted(int(name[1]) for name in found if name)


def name_snapshot(number: int) -> str:
    """Return the key of a stored snapshot: ``snapshots/`` and its number."""
    return f"{SNAPSHOTS}/{number:08d}.json"


def read_snapshots(bucket: Bucket, numbers: list[int]) -> Iterator[tuple[int, Snapshot | None]]:
    """Yield the snapshots, newest first, or None for a damaged one."""
    for number in reversed(numbers):
        content = bucket.read(name_snapshot(number))
        if content is not None:  # Otherwise, it was deleted in the meantime.
            yield number, decode_snapshot(content, number)


class Mirror(_Strict):
    """The content of ``remote.json``, which records the mirror of this copy of a run folder."""

    url: str
    writer: str
    """Random name of this copy of the folder."""
    follows: str = ""
    """Seal of the newest snapshot when this copy was pulled, or "" if it was not pulled.

    This is the newest one even if it was damaged and an older one was used.
    """

    def write(self, folder: Path) -> None:
        """Write the mirror to a run folder."""
        write_atomic(folder / MIRROR_FILE, json.dumps(self.model_dump(), indent=1) + "\n")


def find_mirror(folder: Path) -> Mirror | None:
    """Return the mirror recorded in a run folder, or None if the run has no mirror."""
    try:
        return Mirror.model_validate_json((folder / MIRROR_FILE).read_bytes())
    except (OSError, ValidationError):
        return None

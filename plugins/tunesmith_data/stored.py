"""Read bytes again by position, from data files and temporary files."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from tunesmith.errors import DataError

MAX_OPEN_FILES = 64


class FileVersion(NamedTuple):
    """The state of a file, for detecting changes."""

    inode: int
    size: int
    """Size in bytes."""
    modified_ns: int
    """Time of the last change, in nanoseconds since 1970."""

    @classmethod
    def of(cls, status: os.stat_result) -> FileVersion:
        """Return the state from a result of ``os.stat``."""
        return cls(status.st_ino, status.st_size, status.st_mtime_ns)


class StoredBytes(Protocol):
    """Bytes that can be read again by position."""

    def read(self, offset: int, size: int) -> bytes:
        """Return ``size`` bytes starting at ``offset``.

        Raises:
            DataError: the bytes cannot be read, or have changed.
        """
        ...


class OpenFiles:
    """Open data files for reading rows again; the least recently used files are closed."""

    def __init__(self) -> None:
        self._descriptors: OrderedDict[Path, int] = OrderedDict()
        weakref.finalize(self, _close_all, self._descriptors)

    def descriptor(self, path: Path) -> int:
        """Return the descriptor of a file, opening the file for reading if necessary.

        The descriptor is valid until :data:`MAX_OPEN_FILES` other files have been requested.

        Raises:
            OSError: the file cannot be opened.
        """
        if path in self._descriptors:
            self._descriptors.move_to_end(path)
            return self._descriptors[path]
        if len(self._descriptors) >= MAX_OPEN_FILES:
            os.close(self._descriptors.popitem(last=False)[1])
        descriptor = self._descriptors[path] = os.open(path, os.O_RDONLY)
        return descriptor


def _close_all(descriptors: OrderedDict[Path, int]) -> None:
    while descriptors:
        os.close(descriptors.popitem()[1])


@dataclass(frozen=True)
class StoredFile:
    """A data file that must not change after it is first read."""

    path: Path
    display_name: str
    """The file's name in errors."""
    version: FileVersion
    """The file's state when it was first read."""
    files: OpenFiles
    """Keeps the file open between reads."""

    def read(self, offset: int, size: int) -> bytes:
        """Return ``size`` bytes starting at ``offset``.

        Raises:
            DataError: the file has changed, or cannot be read.
        """
        try:
            descriptor = self.files.descriptor(self.path)
            data = os.pread(descriptor, size, offset)
            if FileVersion.of(os.fstat(descriptor)) == self.version and len(data) == size:
                return data
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise DataError(self.display_name, f"cannot be read again: {reason}") from error
        hint = "rows are read again during a run: do not change data files until it ends"
        raise DataError(self.display_name, "changed after it was loaded", hint=hint)


class Spool:
    """An unnamed temporary file that disappears when it is no longer used."""

    def __init__(self) -> None:
        descriptor, path = tempfile.mkstemp(prefix="tunesmith-")
        os.unlink(path)
        self._file = os.fdopen(descriptor, "w+b", buffering=1 << 20)
        self.size = 0

    @property
    def descriptor(self) -> int:
        """Descriptor of the file, after flushing the appended bytes."""
        self._file.flush()
        return self._file.fileno()

    def append(self, data: bytes) -> int:
        """Append bytes and return their offset."""
        offset = self.size
        self._file.write(data)
        self.size += len(data)
        return offset

    def read(self, offset: int, size: int) -> bytes:
        """Return ``size`` bytes starting at ``offset``."""
        return os.pread(self.descriptor, size, offset)


@dataclass(frozen=True)
class StoredInSpool:
    """Part of a temporary file, such as an unpacked data file."""

    spool: Spool
    start: int
    """Start of the part, in bytes."""

    def read(self, offset: int, size: int) -> bytes:
        """Return ``size`` bytes starting at ``offset``."""
        return self.spool.read(self.start + offset, size)

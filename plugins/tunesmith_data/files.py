"""Data files: find them by name or pattern, open them safely, and detect changes while reading."""

from __future__ import annotations

import glob
import gzip
import io
import itertools
import os
import stat
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tunesmith.errors import DataError
from tunesmith_data.row import ByteStream

MAX_FILES = 10_000
HEAD_BYTES = 1 << 16
GZIP_MAGIC = b"\x1f\x8b"
UTF8_BOM = b"\xef\xbb\xbf"
UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")

REFUSED_MAGIC = {
    GZIP_MAGIC: "gzip inside gzip",
    b"PK\x03\x04": "a zip archive",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ": "compressed with xz",
    b"PAR1": "a Parquet file",
    b"ARROW1": "an Arrow file",
    b"SQLite format 3": "an SQLite database",
}
"""First bytes of formats that are not text, and the name of each format."""


@dataclass(frozen=True, slots=True)
class DataFile:
    """A regular file, and its name in messages."""

    path: Path
    display_name: str


def find_files(patterns: str | Sequence[str], max_files: int = MAX_FILES) -> tuple[DataFile, ...]:
    """Return the files that names and glob patterns match, each once, in order.

    Raises:
        DataError: a name without a file, a pattern without a match, or not a regular file.
    """
    found: dict[str, DataFile] = {}
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        for path in _matches(pattern, max_files):
            _refuse_irregular(path)
            found.setdefault(os.path.realpath(path), DataFile(Path(path), _display_name(path)))
    if len(found) > max_files:
        raise DataError(str(patterns), f"names more than {max_files:,} files")
    return tuple(found.values())


def _matches(pattern: str, max_files: int) -> list[str]:
    """Return the paths that match one name or pattern, sorted."""
    name = os.path.expanduser(pattern)
    if "\0" in name:
        raise DataError(repr(pattern), "a file name cannot hold a NUL character")
    if not glob.has_magic(name) or os.path.lexists(name):
        return [name]
    matches = list(itertools.islice(glob.iglob(name, recursive=True), max_files + 1))
    if len(matches) > max_files:
        raise DataError(pattern, f"matches more than {max_files:,} files")
    files = sorted(path for path in matches if not os.path.isdir(path))
    if not files:
        raise DataError(pattern, "matches no file", hint="check the pattern and its folder")
    return files


def _refuse_irregular(path: str) -> None:
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        hint = "paths are relative to the folder of the run file"
        raise DataError(_display_name(path), _reason(error), hint=hint) from error
    if stat.S_ISDIR(mode):
        hint = f"name files or a pattern, such as {_display_name(path).rstrip('/')}/*.jsonl"
        raise DataError(_display_name(path), "is a folder, not a file", hint=hint)
    if not stat.S_ISREG(mode):
        raise DataError(_display_name(path), "is not a regular file but a pipe, socket or device")


def _display_name(path: str) -> str:
    """Return the relative path below the working directory, elsewhere the path as given."""
    working_directory = os.path.join(os.getcwd(), "")
    return path[len(working_directory) :] if path.startswith(working_directory) else path


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


@contextmanager
def open_data_file(file: DataFile, *, max_unpacked_bytes: int) -> Iterator[ByteStream]:
    """Open a file for reading: unpacked if it is gzip, positioned after a byte-order mark.

    Raises:
        DataError: it cannot be read, is not UTF-8 text, unpacks to more than the limit, or changes
            while it is read.
    """
    try:
        with io.BufferedReader(io.FileIO(file.path), HEAD_BYTES) as raw:
            before = _version(os.fstat(raw.fileno()))
            with _open_unpacked(raw, file.display_name, max_unpacked_bytes) as stream:
                _check_head(stream, file.display_name)
                yield stream
            if before != _version(os.fstat(raw.fileno())) or before != _version(os.stat(file.path)):
                hint = "wait until no other program writes to it, then run again"
                raise DataError(file.display_name, "changed while it was being read", hint=hint)
    except OSError as error:
        raise DataError(file.display_name, _reason(error)) from error


def _version(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns


@contextmanager
def _open_unpacked(raw: ByteStream, name: str, limit: int) -> Iterator[ByteStream]:
    if not raw.peek(2).startswith(GZIP_MAGIC):
        yield raw
        return
    with (
        gzip.GzipFile(fileobj=raw) as archive,
        io.BufferedReader(_BoundedGzip(archive, name, limit), HEAD_BYTES) as stream,
    ):
        yield stream


class _BoundedGzip(io.RawIOBase):
    """A gzip stream that raises a :class:`DataError` after ``limit`` unpacked bytes."""

    def __init__(self, archive: gzip.GzipFile, name: str, limit: int) -> None:
        self._archive = archive
        self._name = name
        self._limit = limit
        self._count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        try:
            data = self._archive.read(len(buffer))
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            hint = "the file is cut off or damaged: fetch it again"
            raise DataError(self._name, "its gzip data cannot be unpacked", hint=hint) from error
        self._count += len(data)
        if self._count > self._limit:
            problem = f"unpacks to more than {self._limit:,} bytes"
            raise DataError(
                self._name, problem, hint="raise max_unpacked_bytes if that is expected"
            )
        buffer[: len(data)] = data
        return len(data)


def _check_head(stream: ByteStream, name: str) -> None:
    """Refuse files that are not UTF-8 text, and skip a byte-order mark."""
    head = stream.peek(HEAD_BYTES)
    if not head:
        raise DataError(name, "is empty")
    for magic, description in REFUSED_MAGIC.items():
        if head.startswith(magic):
            raise DataError(
                name, f"is {description}", hint="unpack or convert it to JSON Lines first"
            )
    # Every second byte of English UTF-16 is NUL; a quarter is more than any text in UTF-8 has.
    sample = head[:256]
    if sample.startswith(UTF16_BOMS) or 4 * sample.count(0) >= len(sample):
        hint = "convert it: iconv -f UTF-16 -t UTF-8 FILE > NEW"
        raise DataError(name, "is not UTF-8; it looks like UTF-16", hint=hint)
    if head.startswith(UTF8_BOM):
        stream.read(len(UTF8_BOM))
